swiftprune_test(device/open_device)
