package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/agent"
	"github.com/rotunda-pam/rotunda/agent/installed"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/exitcode"
	"github.com/rotunda-pam/rotunda/internal/fault"
	"github.com/rotunda-pam/rotunda/internal/release"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/terminal"
)

func pluginCommand(settings func() (*Settings, error)) *cobra.Command {
	c := &cobra.Command{
		Use: "plugin", Short: "install plugins of other publishers, and choose their versions",
		Long: `A publisher signs a manifest of his plugin's files ("rotunda plugin sign"). These
commands check it and keep the versions side by side in plugin_dir. They let nothing
start: for that, a member of the organisation approves the file's hash ("rotunda plugin
approve"), and until then the agent goes on with what is approved.`,
	}
	c.AddCommand(installCommand(settings, false), installCommand(settings, true), rollbackCommand(settings), pluginListCommand(settings))
	return c
}

func installCommand(settings func() (*Settings, error), upgrade bool) *cobra.Command {
	var publisher string
	var older, asJSON bool
	c := &cobra.Command{
		Use: "install MANIFEST --publisher KEY", Short: "install a plugin for the first time", Args: cobra.ExactArgs(1),
		Long: `Takes the file for this host's platform from beside the manifest. KEY is the
publisher's key, as he publishes it; it is kept, and later versions have to be signed by
it.`,
	}
	if upgrade {
		c = &cobra.Command{
			Use: "upgrade MANIFEST", Short: "install another version of a plugin, and use it from now on", Args: cobra.ExactArgs(1),
			Long: `The version before stays installed. Runs that are under way end with the version
that they began with; on each resource the new one begins when the old one has nothing to
do there any more. Where the publisher has a new key, and says so elsewhere, give it with
--publisher.`,
		}
		c.Flags().BoolVar(&older, "older", false, "also to a version that is older than the one in use")
	}
	c.Flags().StringVar(&publisher, "publisher", "", "the publisher's key, ed25519:…")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := settings()
		if err != nil {
			return err
		}
		o := installed.Options{Upgrade: upgrade, Older: older, Now: fault.Now()}
		if publisher != "" {
			if o.Publisher, err = release.ParsePublisher(publisher); err != nil {
				return exitcode.With(exitcode.Usage, fmt.Errorf("--publisher: %w", err))
			}
		}
		for _, b := range agent.Builtins() {
			name, _, _ := strings.Cut(b, "@")
			o.BuiltIn = append(o.BuiltIn, name)
		}
		r, file, before, err := installed.Install(s.PluginDir, args[0], o)
		if err != nil {
			return exitcode.With(installExit(err), err)
		}
		known, err := installed.Read(s.PluginDir)
		if err != nil {
			return err
		}
		v := chosen{Name: r.Name, Version: r.Version, SHA256: file.SHA256, Before: before}
		if p := known[r.Name]; p != nil {
			v.Publisher = p.Publisher
		}
		return v.show(c, s, installedAs, asJSON)
	}
	return c
}

// installExit is how the program ends where it is not said by the error itself.
func installExit(err error) exitcode.Code {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return exitcode.NotFound
	case errors.Is(err, release.ErrManifest), errors.Is(err, release.ErrNotRegular):
		return exitcode.Usage
	}
	return exitcode.Internal
}

// chosen is the version of a plugin that is in use now.
type chosen struct {
	Name      string            `json:"name"`
	Version   string            `json:"version"`
	SHA256    seal.Digest       `json:"sha256"`
	Publisher release.Publisher `json:"publisher"`          // who signed it
	Before    string            `json:"before,omitempty"`   // in use until now
	Approved  *bool             `json:"approved,omitempty"` // not said where no agent answers
	Drain     string            `json:"drain,omitempty"`    // what becomes of the version before
	Next      string            `json:"next"`               // what it is waiting for
}

// What was done, in a column.
const (
	installedAs = "installed "
	backAt      = "back at   "
)

// show prints it, what was done first.
func (v chosen) show(c *cobra.Command, s *Settings, done string, asJSON bool) error {
	newer := 1 // than what was in use before
	if v.Before != "" {
		newer = release.Compare(v.Version, v.Before)
	}
	if v.Before != "" && newer != 0 {
		v.Drain = fmt.Sprintf("instead of %s, which stays; runs under way end with it", v.Before)
	}
	may, asked := approved(s, v.SHA256)
	if asked {
		v.Approved = &may
	}
	approve := fmt.Sprintf("rotunda plugin approve FILE --name %s --version %s", v.Name, v.Version)
	switch {
	case !asked:
		v.Next = "the agent starts it when the organisation's log approves its hash: " + approve
	case !may:
		v.Next = "not approved yet, and until then not started: " + approve
	default:
		v.Next = "approved by the organisation's log"
	}
	if asJSON {
		return printJSON(c, v)
	}
	out := c.OutOrStdout()
	switch {
	case newer == 0:
		fmt.Fprintf(out, "%s %s is in use already\n", v.Name, v.Version)
	case newer > 0 && done == backAt:
		fmt.Fprintf(out, "%s %s is in use again\n", v.Name, v.Version)
	default:
		fmt.Fprintf(out, "%s %s %s\n", done, v.Name, v.Version)
	}
	fmt.Fprintf(out, "sha256     %s\n", v.SHA256)
	if v.Drain != "" {
		fmt.Fprintf(out, "in use     %s\n", v.Drain)
	}
	fmt.Fprintln(out, v.Next)
	return nil
}

func printJSON(c *cobra.Command, v any) error {
	e := json.NewEncoder(c.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// approved asks the running agent whether the log lets a file start.
func approved(s *Settings, sum seal.Digest) (may, asked bool) {
	if s.Health == "" {
		return false, false
	}
	h, err := askHealth(s.Health)
	if err != nil {
		return false, false
	}
	return slices.ContainsFunc(h.Plugins, func(p agent.Plugin) bool { return p.SHA256 == sum.String() && p.Approved }), true
}

func rollbackCommand(settings func() (*Settings, error)) *cobra.Command {
	var to string
	var asJSON bool
	c := &cobra.Command{
		Use: "rollback NAME", Short: "use an older version that is installed", Args: cobra.ExactArgs(1),
		Long: `Goes back to the next older version, or to the one that --to names. What is newer stays
installed and is left: it does not start in place of a version that is not approved.
"upgrade" with its manifest, or --to, uses it again. To a version that another publisher
signed, or the same one with a former key, only --to goes back.`,
	}
	c.Flags().StringVar(&to, "to", "", "version")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := settings()
		if err != nil {
			return err
		}
		before, now, err := installed.Rollback(s.PluginDir, args[0], to)
		if err != nil {
			return exitcode.With(installExit(err), err)
		}
		v := chosen{Name: args[0], Version: now.Version, SHA256: now.SHA256, Publisher: now.Publisher, Before: before.Version}
		return v.show(c, s, backAt, asJSON)
	}
	return c
}

// pluginRow is a plugin file of this host.
type pluginRow struct {
	Name      string             `json:"name"`
	Version   string             `json:"version,omitempty"` // of what was installed by these commands
	SHA256    string             `json:"sha256"`
	Publisher *release.Publisher `json:"publisher,omitempty"`
	former    bool               // signed by another than whose word is taken now
	BuiltIn   bool               `json:"builtIn"`
	InUse     bool               `json:"inUse"`              // the version that is chosen
	Left      bool               `json:"left"`               // somebody went back from it: it does not start in place of another
	Missing   bool               `json:"missing"`            // its file is gone
	Approved  *bool              `json:"approved,omitempty"` // the agent may start it; not said where no agent answers
	Processes *int               `json:"processes,omitempty"`
	Error     string             `json:"error,omitempty"` // why no agent starts the file
}

func pluginListCommand(settings func() (*Settings, error)) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "list the plugins of this host, and what the running agent has started", Args: cobra.NoArgs,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		s, err := settings()
		if err != nil {
			return err
		}
		rows, err := pluginRows(s)
		if err != nil {
			return err
		}
		var silent error
		if s.Health == "" {
			silent = errors.New("the settings give no health endpoint (health = \"127.0.0.1:9641\")")
		} else if h, err := askHealth(s.Health); err != nil {
			silent = err
		} else {
			rows = loaded(rows, h.Plugins)
		}
		if silent != nil {
			fmt.Fprintf(c.ErrOrStderr(), "what is approved and what runs is not known: %v\n", silent)
		}
		if asJSON {
			return printJSON(c, rows)
		}
		return showPlugins(c.OutOrStdout(), rows)
	}
	return c
}

// pluginRows is what the folder has.
func pluginRows(s *Settings) ([]pluginRow, error) {
	catalogue, err := pluginhost.NewCatalogue(s.PluginDir, agent.Builtins(), nil)
	if err != nil {
		return nil, err
	}
	files, err := catalogue.Look()
	if err != nil {
		return nil, exitcode.With(fileExit(err), fmt.Errorf("%w: set plugin_dir to the folder of plugin binaries", err))
	}
	known, err := installed.Read(s.PluginDir)
	if err != nil {
		return nil, err
	}
	rows := []pluginRow{}
	for _, f := range files {
		row := pluginRow{Name: f.Plugin.Name, SHA256: seal.Digest(f.Plugin.SHA256).String(), BuiltIn: f.BuiltIn}
		if f.Err != nil {
			row.Name, row.Error = f.Name, f.Err.Error()
		}
		if p := known[f.Plugin.Name]; p != nil {
			row.Left = p.Left(seal.Digest(f.Plugin.SHA256))
			for _, v := range p.Versions {
				if v.SHA256 == seal.Digest(f.Plugin.SHA256) {
					row.Version, row.Publisher, row.InUse = v.Version, &v.Publisher, v.Version == p.Current
					row.former = v.Publisher != p.Publisher
				}
			}
		}
		rows = append(rows, row)
	}
	for name, versions := range known.Missing(s.PluginDir) {
		p := known[name]
		for _, v := range versions {
			rows = append(rows, pluginRow{
				Name: name, Version: v.Version, SHA256: v.SHA256.String(), Publisher: &v.Publisher, former: v.Publisher != p.Publisher,
				InUse: v.Version == p.Current, Left: p.Left(v.SHA256), Missing: true,
			})
		}
	}
	slices.SortStableFunc(rows, func(a, b pluginRow) int {
		if a.Name != b.Name {
			return strings.Compare(a.Name, b.Name)
		}
		return release.Compare(b.Version, a.Version)
	})
	return rows, nil
}

// loaded adds what the running agent says.
func loaded(rows []pluginRow, running []agent.Plugin) []pluginRow {
	for i := range rows {
		no, none := false, 0
		rows[i].Approved, rows[i].Processes = &no, &none
		for _, p := range running {
			if p.Name == rows[i].Name && p.SHA256 == rows[i].SHA256 {
				rows[i].Approved, rows[i].Processes = &p.Approved, &p.Processes
			}
		}
	}
	return rows
}

func showPlugins(out io.Writer, rows []pluginRow) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tSTATE\tPROCESSES\tSHA256")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", terminal.Line(r.Name), orDash(r.Version), r.state(), r.processes(), r.SHA256)
	}
	return w.Flush()
}

func (r pluginRow) processes() string {
	if r.Processes == nil {
		return "?"
	}
	return strconv.Itoa(*r.Processes)
}

// state is what becomes of a file, in few words.
func (r pluginRow) state() string {
	words := []string{}
	switch {
	case r.Error != "":
		return "not started: " + r.Error
	case r.BuiltIn:
		return "built in"
	case r.InUse:
		words = append(words, "in use")
	case r.Left:
		words = append(words, "left")
	case r.Version != "":
		words = append(words, "kept")
	default:
		words = append(words, "copied by hand")
	}
	if r.former {
		words = append(words, "another publisher's")
	}
	switch {
	case r.Missing:
		words = append(words, "file missing")
	case r.Approved != nil && !*r.Approved:
		words = append(words, "not approved")
	}
	return strings.Join(words, ", ")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
