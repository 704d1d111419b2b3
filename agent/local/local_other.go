//go:build !unix

package local

import (
	"context"
	"errors"

	"github.com/rotunda-pam/rotunda/sdk"
)

var errSystem = errors.New("agents on this system neither run programs nor touch files for scripts: use one on Linux")

type end struct {
	code           int
	signal         string
	ended          bool
	stdout, stderr kept
}

type kept struct {
	b       []byte
	dropped int64
}

// CheckProgram says what is wrong with a program that the local policy names.
func CheckProgram(string) error { return errSystem }

func run(context.Context, string, []string, []byte) (*end, error) {
	return nil, refuse(sdk.ClassUnsupported, Program, errSystem)
}

func readFile(string, int) ([]byte, error) {
	return nil, refuse(sdk.ClassUnsupported, File, errSystem)
}

func writeFile(string, []byte, *uint32, bool) (bool, error) {
	return false, refuse(sdk.ClassUnsupported, File, errSystem)
}
