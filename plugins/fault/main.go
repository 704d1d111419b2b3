// Command fault is a plugin that does one thing wrong, which the resource's settings
// choose. It shows authors what each sentence of the SDK is about, operators what a bad
// plugin does, and the conformance kit that it finds every one of them. Its target is
// the user service of [github.com/rotunda-pam/rotunda/sdk/sdktest].
//
// It is no part of an agent: who wants to see one go wrong has the log approve it.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// Dependent are the settings of a dependent: an app of the service.
type Dependent struct {
	Fault string   `json:"fault" default:"none" doc:"what the plugin does wrong"`
	Apps  []string `json:"apps" required:"true" doc:"apps that use the password, in the order in which they get it"`
}

// Config are the settings of a resource.
type Config struct {
	Fault string `json:"fault" default:"none" doc:"what the plugin does wrong: one of the names of faults.go"`
}

// plugins are five: of targets where the new password ends the former one, of those
// where both work until the former is retired, of those where it lives on for a while,
// of those that make the secret, and one whose manifest depends on who asks for it.
func plugins() []sdk.Plugin {
	m := sdk.Manifest{Version: "1.0.0", Kinds: []sdk.Kind{sdk.Password}, Self: true, Readback: true, Concurrency: 4, Config: &Config{}, Dependents: true, Dependent: &Dependent{}, Provision: true, After: true}
	replaces, overlaps, lives, mints := m, m, m, m
	replaces.Name, overlaps.Name, lives.Name, mints.Name = "fault", "fault-overlap", "fault-lives", "fault-mint"
	overlaps.Overlap, lives.OldLives = m.Kinds, time.Hour
	mints.Kinds = []sdk.Kind{sdk.APIKey}
	mints.Overlap, mints.Minted, mints.Readback = mints.Kinds, mints.Kinds, false
	mints.Self, mints.Dependents, mints.Dependent, mints.Provision, mints.After = false, false, nil, false, false
	twice := m
	twice.Name = "fault-" + string(twoFaced)
	if len(os.Args) > 1 { // by hand: the agent gives no arguments
		twice.MaxLen = 8
	}
	return []sdk.Plugin{
		{Manifest: replaces, Rotator: &rotator{}, Dependents: &apps{}, Provision: &guests{}, After: &restarts{}},
		{Manifest: overlaps, Rotator: &rotator{keep: true}, Dependents: &apps{}, Provision: &guests{}, After: &restarts{}},
		{Manifest: lives, Rotator: &rotator{keep: true}, Dependents: &apps{}, Provision: &guests{}, After: &restarts{}},
		{Manifest: mints, Rotator: &minter{}},
		{Manifest: twice, Rotator: &rotator{}, Dependents: &apps{}, Provision: &guests{}, After: &restarts{}},
	}
}

// Called fault-scripts, it runs scripts instead: the text of one is the name of a plugin,
// "dependents" or "after".
func main() {
	if filepath.Base(os.Args[0]) == "fault-scripts" {
		sdk.ServeScripts(script)
		return
	}
	sdk.Serve(plugins()...)
}

func script(text []byte) (sdk.Plugin, error) {
	if string(text) == "dependents" {
		m := sdk.Manifest{Name: "dependents", Version: "1.0.0", Dependents: true, Dependent: &Dependent{}}
		return sdk.Plugin{Manifest: m, Dependents: &apps{}}, nil
	}
	for _, p := range plugins() {
		if p.Manifest.Name == string(text) {
			return p, nil
		}
	}
	if string(text) == "after" {
		m := sdk.Manifest{Name: "after", Version: "1.0.0", After: true, Config: &Config{}}
		return sdk.Plugin{Manifest: m, After: &restarts{}}, nil
	}
	return sdk.Plugin{}, fmt.Errorf("line 1: no plugin is called %q", text)
}
