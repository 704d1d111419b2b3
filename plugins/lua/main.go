// Command lua hosts one Lua script, which the agent hands in when it has started the
// process: to the agent the script is a plugin of its own, shut in and bounded as any
// other. What a script may do is what its manifest asks for (package sdk/script) and what
// the modules offer that it names (mod_*.go); there is nothing else in its world.
//
// Each call runs in a fresh Lua state; a rotator's session keeps its state from open to
// close. Lua cannot be bounded in its own process (string.rep and patterns look at no
// deadline), so the bounds are the process's: the agent ends one that stays deaf.
package main

import (
	"fmt"
	"os"

	"github.com/rotunda-pam/rotunda/sdk"
)

func main() {
	if len(os.Args) > 1 {
		os.Exit(byHand(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	sdk.ServeScripts(func(text []byte) (sdk.Plugin, error) {
		s, err := load(text)
		if err != nil {
			return sdk.Plugin{}, fmt.Errorf("script: %w", err)
		}
		return s.plugin(), nil
	})
}
