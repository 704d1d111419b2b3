//go:build !unix

package sdk

// watchDeath does nothing: Windows has no descriptors to inherit; the agent puts the
// plugin into a job object that ends with it.
func watchDeath() {}
