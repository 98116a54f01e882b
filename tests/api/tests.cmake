swiftprune_test(api/text_writer)
