// Command rotunda is the command line of Rotunda: it keeps an organisation's
// accounts, starts and follows rotations, and shows what the organisation's
// signed log says. All keys stay on this side; the server sees ciphertext.
//
// Rules of this program:
//   - Results go to standard output, everything else (prompts, progress,
//     warnings, errors) to standard error.
//   - A secret never comes in by an argument or an environment variable, and
//     goes out only by `record get --reveal` and by the tokens and
//     configurations that a command exists to print.
//   - With --json, standard output is JSON alone, one document a line, and an
//     error is one line of JSON on standard error.
package main

import (
	"os"
)

func main() {
	os.Exit(int(run(osProcess())))
}
