swiftprune_test(calibration/stopping)
