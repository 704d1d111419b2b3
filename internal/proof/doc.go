// Package proof holds the tests that try to break the promises, on the real
// programs: kill_test.go kills an agent at every named step of a run, on targets
// that are real servers. Its tests build the programs by the Makefile.
package proof
