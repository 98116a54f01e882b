swiftprune_test(device/open_device)
swiftprune_test(device/evaluation)
