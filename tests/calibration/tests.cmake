swiftprune_test(calibration/stopping)
swiftprune_test(calibration/self_text)
