swiftprune_test(masking/apply_mask)
