swiftprune_test(masking/apply_mask)
swiftprune_test(masking/zero_scan)
