package main

import "math"

// openFiles: there is no bound worth mentioning.
func openFiles() int { return math.MaxInt32 }
