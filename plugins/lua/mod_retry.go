package main

import (
	"math/rand/v2"
	"slices"
	"time"

	lua "github.com/yuin/gopher-lua"

	"github.com/rotunda-pam/rotunda/sdk"
)

var retryModule = module{
	about: "Repeats what may fail for a while.",
	functions: []function{{
		name: "call", takes: "options: {f: fun(attempt: integer): any, attempts?: integer, wait?: number, backoff?: number, on?: string[]}", gives: "any",
		about: "Calls f with the number of the attempt until it gives anything but nil and an error of the classes in on ({\"unreachable\"} unless said otherwise), at most attempts times (5; to 100), and gives what f gave last. " +
			"Between attempts it waits: wait seconds (1) and then backoff (2; 1 to 10) times as long each time, at most a minute, a little more or less by chance. " +
			"It gives up where the next attempt would come after the call's deadline. An error that f raises is not caught. Repeat only what may be done twice.",
		example: `local n = 0
local got = retry.call({attempts = 3, wait = 0.001, f = function(i)
	n = i
	if i < 3 then return nil, {class = "unreachable", reason = "busy"} end
	return "done"
end})
assert(got == "done" and n == 3)`,
		do: retryCall,
	}},
}

const longestWait = time.Minute

func retryCall(a *args) int {
	o := a.options(1, "f", "attempts", "wait", "backoff", "on")
	f, ok := o.get("f").(*lua.LFunction)
	if !ok {
		a.bad(1, "f: want a function")
	}
	attempts, wait, backoff := o.integer("attempts", 5, 1, 100), o.seconds("wait", time.Second), 2.0
	if o.has("backoff") {
		v, ok := o.get("backoff").(lua.LNumber)
		if backoff = float64(v); !ok || !(backoff >= 1 && backoff <= 10) {
			a.bad(1, "backoff: want a number from 1 to 10")
		}
	}
	classes := o.classes("on")
	ctx, cancel := a.within(0)
	defer cancel()
	top := a.L.GetTop()
	for n := 1; ; n++ {
		a.L.SetTop(top)
		a.L.Push(f)
		a.L.Push(lua.LNumber(n))
		a.L.Call(1, lua.MultRet)
		e, failed := errorOf(a.L.Get(top + 2))
		if a.L.Get(top+1) != lua.LNil || !failed || !slices.Contains(classes, e.Class) || n == attempts {
			return a.L.GetTop() - top
		}
		if a.p.dry != nil { // nothing is waited for
			continue
		}
		pause := time.Duration(float64(wait) * (0.9 + 0.2*rand.Float64()))
		if end, ok := ctx.Deadline(); ok && time.Until(end) <= pause {
			return a.L.GetTop() - top
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return a.L.GetTop() - top
		}
		wait = min(time.Duration(float64(wait)*backoff), longestWait)
	}
}

func (o options) classes(name string) (list []sdk.Class) {
	t := o.table(name)
	if t == nil {
		return []sdk.Class{sdk.ClassUnreachable}
	}
	for n := 1; n <= t.Len(); n++ {
		c := classOf(lua.LVAsString(t.RawGetInt(n)))
		if c == "" {
			o.a.bad(o.n, "%s: item %d is no class of errors; there are %s", name, n, classNames)
		}
		list = append(list, c)
	}
	return list
}
