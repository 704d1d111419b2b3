package sdk_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rotunda-pam/rotunda/sdk"
)

type rotator struct{}

func (rotator) Open(context.Context, sdk.OpenRequest) (sdk.Session, error) { return nil, nil }
func (rotator) Verify(context.Context, sdk.VerifyRequest) (sdk.VerifyResponse, error) {
	return sdk.VerifyResponse{}, nil
}

type after struct{}

func (after) Run(context.Context, sdk.OpenRequest, sdk.AfterRequest) (sdk.AfterResponse, error) {
	return sdk.AfterResponse{}, nil
}

func with(m sdk.Manifest, f func(*sdk.Manifest)) sdk.Manifest {
	f(&m)
	return m
}

// Serve panics when manifest and interfaces disagree, before anything else.
func TestServePanics(t *testing.T) {
	good := sdk.Manifest{Name: "good", Version: "1", Kinds: []sdk.Kind{sdk.Password}}
	edit := func(f func(*sdk.Manifest)) []sdk.Plugin {
		m := good
		f(&m)
		return []sdk.Plugin{{Manifest: m, Rotator: rotator{}}}
	}
	for name, p := range map[string][]sdk.Plugin{
		"no plugin":                  {},
		"no rotator":                 {{Manifest: good}},
		"no name":                    edit(func(m *sdk.Manifest) { m.Name = "" }),
		"name":                       edit(func(m *sdk.Manifest) { m.Name = "Upper Case" }),
		"no version":                 edit(func(m *sdk.Manifest) { m.Version = "" }),
		"no kinds":                   edit(func(m *sdk.Manifest) { m.Kinds = nil }),
		"negative":                   edit(func(m *sdk.Manifest) { m.Concurrency = -1 }),
		"config":                     edit(func(m *sdk.Manifest) { m.Config = 1 }),
		"settles if, no settings":    edit(func(m *sdk.Manifest) { m.SettleIf = "replicas" }),
		"settles if, no such":        edit(func(m *sdk.Manifest) { m.Config, m.SettleIf = &config{}, "replicas" }),
		"settles if, no boolean":     edit(func(m *sdk.Manifest) { m.Config, m.SettleIf = &config{}, "realm" }),
		"settles if, on by itself":   edit(func(m *sdk.Manifest) { m.Config, m.SettleIf = &config{}, "strict" }),
		"overlap":                    edit(func(m *sdk.Manifest) { m.Overlap = []sdk.Kind{sdk.SSHKey} }),
		"minted alone":               edit(func(m *sdk.Manifest) { m.Minted = m.Kinds }),
		"rotates and has no rotator": {{Manifest: with(good, func(m *sdk.Manifest) { m.After = true }), After: after{}}},
		"after, and says not":        {{Manifest: good, Rotator: rotator{}, After: after{}}},
		"no after, and says it":      edit(func(m *sdk.Manifest) { m.After = true }),
		"the same twice":             {{Manifest: good, Rotator: rotator{}}, {Manifest: good, Rotator: rotator{}}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			sdk.Serve(p...)
		})
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("SDK_TEST_SERVE") != "" {
		sdk.Serve(sdk.Plugin{Manifest: sdk.Manifest{Name: "good", Version: "1", Kinds: []sdk.Kind{sdk.Password}, Config: &config{}}, Rotator: rotator{}})
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Started by hand, a plugin says what it is.
func TestByHand(t *testing.T) {
	run := func(args ...string) (string, error) {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), "SDK_TEST_SERVE=1")
		b, err := cmd.CombinedOutput()
		return string(b), err
	}
	if out, err := run("manifest"); err != nil || !strings.Contains(out, `"Name": "good"`) || !strings.Contains(out, `"realm"`) {
		t.Errorf("manifest: %v\n%s", err, out)
	}
	if out, err := run(); err == nil || !strings.Contains(out, "the agent starts it") {
		t.Errorf("without arguments: %v\n%s", err, out)
	}
}
