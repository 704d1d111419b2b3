package main

import (
	"time"

	lua "github.com/yuin/gopher-lua"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
)

var stateModule = module{
	about: "Puts a little away from one run to the next: in the agent's journal, sealed to that agent, for this script in the record that names it, and for this account. " +
		"Another agent of the pool has its own, so a script must be able to miss it.",
	functions: []function{
		{
			name: "get", takes: "name: string", gives: "string|secret|nil, sdk.error?",
			about: "Gives what was put away by this name, as it was put away: a text, or a secret; nil where there is nothing. An error's reason is state.broken where it does not open any more.",
			example: `local ticket, err = state.get("ticket")
if err then
  print("it is begun anew:", err)
end`,
			do: func(a *args) int {
				answer, b, failed := a.put(pluginv1.LocalState{Name: a.text(1)}, nil)
				switch {
				case failed:
					return 2
				case !answer.Known:
					return a.push(lua.LNil)
				}
				return a.give(b, answer.Secret)
			},
		},
		{
			name: "set", takes: "name: string, value: string|secret", gives: "true|nil, sdk.error?",
			about: "Puts a value away in the name's place. A name has A-Z, a-z, 0-9, _, . and -, at most 64; there are at most 32 of them, with 16 KiB in all. " +
				"It is kept when set answers. At most 100 times in one run. An error's reason is state.full where it is too much, state.often, or state.nobody in the test of a resource.",
			example: `assert(state.set("ticket", "CHG0001"))`,
			do: func(a *args) int {
				b, isSecret := a.bytes(2)
				defer clear(b)
				isSecret = isSecret || a.seen(string(b)) != nil // one that was revealed
				if _, _, failed := a.put(pluginv1.LocalState{Name: a.text(1), Set: true, Secret: isSecret}, b); failed {
					return 2
				}
				return a.push(lua.LTrue)
			},
		},
		{
			name: "forget", takes: "name: string", gives: "true|nil, sdk.error?",
			about:   "Forgets what was put away by this name, if there is anything.",
			example: `assert(state.forget("ticket"))`,
			do: func(a *args) int {
				if _, _, failed := a.put(pluginv1.LocalState{Name: a.text(1), Forget: true}, nil); failed {
					return 2
				}
				return a.push(lua.LTrue)
			},
		},
	},
}

// put asks the agent; where that fails the error is on the stack.
func (a *args) put(r pluginv1.LocalState, body []byte) (answer pluginv1.LocalAnswer, out []byte, failed bool) {
	if !pluginv1.StateName(r.Name) {
		a.bad(1, "want a name of A-Z, a-z, 0-9, _, . and -, at most 64")
	}
	answer, out, e := a.onHost(30*time.Second, pluginv1.LocalRequest{State: &r}, body)
	if e != nil {
		a.fail(e)
		return answer, nil, true
	}
	return answer, out, false
}
