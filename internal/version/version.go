// Package version says which build this is.
package version

// Version is set by the build (make build).
var Version = "devel"
