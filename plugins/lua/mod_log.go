package main

import (
	"log/slog"
	"strings"
)

var logModule = module{
	about: "Lines of the agent's log, which are also the output that the readers of a run get. Secrets print as [secret].",
	functions: []function{
		logAt("debug", slog.LevelDebug), logAt("info", slog.LevelInfo), logAt("warn", slog.LevelWarn), logAt("error", slog.LevelError),
		{
			name: "progress", takes: "step: string",
			about:   "Tells whoever waits for the run what is being done, in at most 64 bytes.",
			example: `log.progress("restarting")`,
			do: func(a *args) int {
				step := a.hidden.Text(a.text(1))
				if a.host.Progress != nil {
					a.host.Progress(step)
				}
				return 0
			},
		},
	},
}

func logAt(name string, level slog.Level) function {
	return function{
		name: name, takes: "...: any",
		about:   "Writes a line of level " + name + ": its arguments, with a space between them.",
		example: `log.` + name + `("unit", "nginx", 3)`,
		do: func(a *args) int {
			var parts []string
			for n := 1; n <= a.L.GetTop(); n++ {
				parts = append(parts, a.L.ToStringMeta(a.L.Get(n)).String())
			}
			a.log(level, strings.Join(parts, " "))
			return 0
		},
	}
}
