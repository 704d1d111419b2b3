package main

import (
	"time"

	lua "github.com/yuin/gopher-lua"
)

var timeModule = module{
	about: "The time, in seconds since 1970 with a fraction, and waiting.",
	functions: []function{
		{
			name: "now", gives: "number", about: "The time now.",
			example: `assert(time.now() > 1e9)`,
			do:      func(a *args) int { return a.push(lua.LNumber(float64(time.Now().UnixMicro()) / 1e6)) },
		},
		{
			name: "sleep", takes: "seconds: number",
			about:   "Waits, at most an hour, and no longer than the call may last: then it raises an error.",
			example: `time.sleep(0.001)`,
			do:      sleep,
		},
		{
			name: "format", takes: "t: number, layout?: string", gives: "string",
			about:   "Writes a time in UTC: as 2026-01-31T12:00:00Z, or by a layout of %Y %m %d %H %M %S.",
			example: `assert(time.format(0) == "1970-01-01T00:00:00Z" and time.format(86400, "%Y%m%d") == "19700102")`,
			do: func(a *args) int {
				v, ok := a.L.Get(1).(lua.LNumber)
				if !ok || !(v > -1e11 && v < 1e11) {
					a.bad(1, "want a time in seconds since 1970")
				}
				at := time.UnixMicro(int64(float64(v) * 1e6)).UTC()
				return a.push(lua.LString(strftime(at, a.optText(2, "%Y-%m-%dT%H:%M:%SZ"))))
			},
		},
		{
			name: "parse", takes: "text: string", gives: "number", about: "Reads a time of RFC 3339.",
			example: `assert(time.parse("1970-01-01T00:01:00Z") == 60)`,
			do: func(a *args) int {
				at, err := time.Parse(time.RFC3339, a.text(1))
				if err != nil {
					a.bad(1, "want a time such as 2026-01-31T12:00:00Z")
				}
				return a.push(lua.LNumber(float64(at.UnixMicro()) / 1e6))
			},
		},
	},
}

func sleep(a *args) int {
	v, ok := a.L.Get(1).(lua.LNumber)
	if !ok || !(v >= 0 && v <= 3600) {
		a.bad(1, "want seconds, at most 3600")
	}
	ctx, cancel := a.within(0)
	defer cancel()
	t := time.NewTimer(time.Duration(float64(v) * float64(time.Second)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		a.wrong("the call's time was over first")
	}
	return 0
}

// strftime knows the letters Y m d H M S; of others the letter alone stays.
func strftime(at time.Time, layout string) string {
	letters := map[byte]string{'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05"}
	var out []byte
	for i := 0; i < len(layout); i++ {
		if layout[i] != '%' || i+1 == len(layout) {
			out = append(out, layout[i])
			continue
		}
		i++
		if l, ok := letters[layout[i]]; ok {
			out = at.AppendFormat(out, l)
		} else {
			out = append(out, layout[i])
		}
	}
	return string(out)
}
