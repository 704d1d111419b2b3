//go:build !unix

package release

const noWait = 0
