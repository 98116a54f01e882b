swiftprune_test(templates/template)
swiftprune_test(templates/chat_template)
