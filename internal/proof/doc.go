// Package proof holds the tests that try to break the promises, on the real programs and on
// targets that are real servers: matrix_test.go and faults_test.go break whatever can break
// at every named step of a run, soak_test.go at random moments; hostile_test.go does what
// whoever owns the server may try. They build the programs by the Makefile.
package proof
