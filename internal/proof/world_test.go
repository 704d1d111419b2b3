package proof

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// built builds the programs once for all tests of this package, with fault points
// or without.
var built = struct {
	sync.Mutex
	dirs map[string]string
}{dirs: map[string]string{}}

// turns are of all tests but the fault matrix, which takes as long as they do together, and
// mostly waits: they run beside it, two at a time.
var turns = make(chan struct{}, 2)

func beside(t *testing.T) {
	t.Helper()
	t.Parallel()
	turns <- struct{}{}
	t.Cleanup(func() { <-turns })
}

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "100"); err != nil { // who waits for a turn counts, too
		panic(err)
	}
	code := m.Run()
	for _, d := range built.dirs {
		os.RemoveAll(d)
	}
	os.Exit(code)
}

func bin(t *testing.T, tags ...string) string {
	t.Helper()
	if dir := os.Getenv("ROTUNDA_BIN"); dir != "" && len(tags) == 0 {
		return dir
	}
	built.Lock()
	defer built.Unlock()
	key := fmt.Sprint(tags)
	if dir := built.dirs[key]; dir != "" {
		return dir
	}
	dir, err := os.MkdirTemp("", "rotunda-proof-bin-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := installation.Build(dir, tags...); err != nil {
		t.Fatal(err)
	}
	built.dirs[key] = dir
	return dir
}

// world is one installation with one agent.
type world struct {
	*installation.Installation
	agent *installation.Agent
	lacks []string // what this machine cannot have

	// reader looks as the command line does, for what is asked thousands of times.
	reader *client.Client
	refs   *sync.Map // title → client.Ref, of what the reader has found
}

func newWorld(t *testing.T, tags ...string) *world {
	t.Helper()
	return start(t, installation.Options{Bin: bin(t, tags...)})
}

// start is newWorld with other options.
func start(t *testing.T, o installation.Options) *world {
	t.Helper()
	if o.Dir == "" {
		dir, err := os.MkdirTemp("", "rotunda-proof-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		o.Dir = dir
	}
	i, err := installation.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	agent, err := i.AddAgent(t.Context(), "gw1", installation.Pool)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.AddFolder(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := &world{Installation: i, agent: agent, refs: &sync.Map{}}
	w.reader, err = i.Client(t.Context())
	must(t, err)
	t.Cleanup(func() { must(t, w.reader.Close()) })
	return w
}

// record reads an account as the command line does.
func (w *world) record(ctx context.Context, title string) (*client.Record, error) {
	ref, known := w.refs.Load(title)
	if !known {
		r, err := w.reader.FindRecord(ctx, title)
		if err == nil {
			w.refs.Store(title, r.Ref)
		}
		return r, err
	}
	list, err := w.reader.Get(ctx, ref.(client.Ref))
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("LOST: the record of %s is gone", title)
	}
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// called is the title of a record that was read before; else its name.
func (w *world) called(ref client.Ref) string {
	title := ref.String()
	w.refs.Range(func(t, r any) bool {
		if r == ref {
			title = t.(string)
		}
		return title != t
	})
	return title
}

// kindOfTarget is one kind of account of the proof: how to make it, and how to ask
// its target, independently of the plugin.
type kindOfTarget struct {
	name    string
	kind    sdk.Kind
	add     func(title string) error
	accepts func(ctx context.Context, title string, c sdk.Credential) (bool, error)
	// keys is the whole of the file that says which keys open an account; nil: there is
	// none. besides is what it holds besides the account's own key.
	keys    func(title string) ([]byte, error)
	besides []byte
}

// accountsOfResource is how many accounts share a resource of the proof: as many as it
// takes runs at once, so that each can stand at a step while the others do.
const accountsOfResource = 4

// resources names the resource of the next account, and makes it where the one before
// is in use by enough.
func resources(name string, make func(title string) error) func() (string, error) {
	accounts := 0
	return func() (title string, err error) {
		title = fmt.Sprint(name, 1+accounts/accountsOfResource)
		if accounts%accountsOfResource == 0 {
			err = make(title)
		}
		accounts++
		return title, err
	}
}

// kindsOfTarget starts the targets. What this machine cannot have is left out, with
// its reason.
func (w *world) kindsOfTarget(t *testing.T) []kindOfTarget {
	t.Helper()
	kinds, _ := w.kindsBehind(t, nil)
	return kinds
}

// kindsBehind is kindsOfTarget, its agents reaching each target through a gate.
func (w *world) kindsBehind(t *testing.T, newGate func(t *testing.T, target string) *gate) (kinds []kindOfTarget, gates []*gate) {
	t.Helper()
	behind := func(address string, port *int) {
		if newGate != nil {
			g := newGate(t, address)
			gates, *port = append(gates, g), g.port()
		}
	}
	pg := targets.Postgres(t)
	seen := *pg
	behind(pg.Address, &seen.Port)
	db := resources("db", func(title string) error { return w.AddPostgres(t.Context(), title, &seen) })
	kinds = []kindOfTarget{{
		name: "postgres", kind: sdk.Password,
		add: func(title string) error {
			resource, err := db()
			if err == nil {
				_, err = w.AddRole(t.Context(), pg, resource, title, title)
			}
			return err
		},
		accepts: func(ctx context.Context, title string, c sdk.Credential) (bool, error) {
			return pg.Accepts(ctx, title, c.Secret)
		},
	}}
	if os.Geteuid() != 0 {
		t.Log("left out: ssh password and ssh key, since Unix accounts need root")
		w.lacks = append(w.lacks, "Unix accounts")
		return kinds, gates
	}
	if built, _ := filepath.Glob(filepath.Join(w.Bin, "plugins", "ssh@*")); len(built) == 0 {
		t.Log("left out: ssh password and ssh key, since the ssh plugin is not built")
		w.lacks = append(w.lacks, "Unix accounts")
		return kinds, gates
	}
	sshd := targets.OpenSSH(t, targets.SSHDOptions{Quick: true})
	shown := *sshd
	behind(sshd.Address, &shown.Port)
	web := resources("web", func(title string) error { return w.AddSSHD(t.Context(), title, &shown) })
	users := map[string]targets.User{}
	accepts := func(ctx context.Context, title string, c sdk.Credential) (bool, error) {
		return sshd.Accepts(ctx, users[title].Name, c)
	}
	somebody, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	besides := slices.Concat([]byte("# kept\n"), bytes.TrimSpace(somebody.Public), []byte("\n"))
	password := func(title string) error {
		pw := sdk.NewSecret([]byte("first-" + random()))
		user, err := sshd.CreateUser(t.Context(), targets.UserOptions{Password: pw})
		if err != nil {
			return err
		}
		users[title] = user
		resource, err := web()
		if err != nil {
			return err
		}
		return w.AddUser(t.Context(), resource, title, user.Name, sdk.Credential{Kind: sdk.Password, Secret: pw})
	}
	key := func(title string) error {
		c, err := newKey()
		if err != nil {
			return err
		}
		user, err := sshd.CreateUser(t.Context(), targets.UserOptions{AuthorizedKeys: slices.Concat(besides, bytes.TrimSpace(c.Public), []byte("\n"))})
		if err != nil {
			return err
		}
		users[title] = user
		resource, err := web()
		if err != nil {
			return err
		}
		return w.AddUser(t.Context(), resource, title, user.Name, c)
	}
	return append(kinds,
		kindOfTarget{name: "ssh password", kind: sdk.Password, add: password, accepts: accepts},
		kindOfTarget{
			name: "ssh key", kind: sdk.SSHKey, add: key, accepts: accepts, besides: besides,
			keys: func(title string) ([]byte, error) { return os.ReadFile(users[title].KeysFile()) },
		}), gates
}

// pauses are those between two questions to a program, which cost more than what they ask
// about: the longer it takes, the seldomer it is asked.
type pauses struct{ last time.Duration }

func (p *pauses) sleep() {
	p.last = min(max(p.last*3/2, 20*time.Millisecond), time.Second)
	time.Sleep(p.last)
}

// settled waits until no candidate is outstanding and the run has ended.
func (w *world) settled(ctx context.Context, title string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for p := (pauses{}); ; p.sleep() {
		var runs []client.Run
		r, err := w.record(ctx, title)
		if err == nil {
			runs, _, err = w.reader.Runs(ctx, client.RunFilter{Account: r.Ref.Record, State: "unfinished"})
		}
		if err == nil && len(runs) == 0 { // the record as it is when the runs have ended
			r, err = w.record(ctx, title)
		}
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%s is not settled: unfinished %+v: %w", title, runs, ctx.Err())
		case err != nil:
			return err
		case r.Candidate == nil && len(runs) == 0:
			return nil
		}
	}
}

// outstanding are all records by title, and whether a candidate is outstanding.
func (w *world) outstanding(ctx context.Context) (map[string]bool, error) {
	out := map[string]bool{}
	folder, err := w.reader.FindFolder(ctx, installation.Folder)
	if err != nil {
		return nil, err
	}
	for r, err := range w.reader.Records(ctx, folder.UID) {
		if err != nil {
			return nil, err
		}
		out[r.Title] = r.Candidate != nil
		w.refs.Store(r.Title, r.Ref)
	}
	return out, nil
}

// credential is what the vault has for an account.
func (w *world) credential(ctx context.Context, k kindOfTarget, title string) (sdk.Credential, error) {
	r, err := w.record(ctx, title)
	if err != nil {
		return sdk.Credential{}, err
	}
	return credentialOf(k, r), nil
}

func credentialOf(k kindOfTarget, r *client.Record) sdk.Credential {
	secret, _ := r.Secret()
	return sdk.Credential{Kind: k.kind, Public: []byte(r.PublicKey()), Secret: secret}
}

// opens says whether the secret in the vault opens the target.
func (w *world) opens(ctx context.Context, k kindOfTarget, title string) error {
	_, err := w.opensBy(ctx, k, title)
	return err
}

// opensBy is opens, and tells the secret.
func (w *world) opensBy(ctx context.Context, k kindOfTarget, title string) (sdk.Credential, error) {
	c, err := w.credential(ctx, k, title)
	if err != nil {
		return c, err
	}
	ok, err := k.accepts(ctx, title, c)
	if err == nil && !ok {
		err = fmt.Errorf("LOST: the vault's secret of %s does not open its target", title)
	}
	return c, err
}

// former is what accounts had since an incident began, by title. Only a key is replaced in
// two steps, and can be left behind.
type former map[string][]sdk.Credential

// note remembers the account's key of now.
func (f former) note(ctx context.Context, w *world, k kindOfTarget, title string) error {
	if k.kind != sdk.SSHKey {
		return nil
	}
	c, err := w.credential(ctx, k, title)
	f.add(k, title, c)
	return err
}

// add is note of what was asked already.
func (f former) add(k kindOfTarget, title string, c sdk.Credential) {
	if k.kind == sdk.SSHKey {
		f[title] = append(f[title], c)
	}
}

// ended says whether nothing opens the target any more but the present key: none that was
// noted, as the target says when it is asked, and none that nobody noted (a candidate that
// was given up), as its file says.
func (f former) ended(ctx context.Context, k kindOfTarget, title string, present sdk.Credential) error {
	if len(f[title]) == 0 {
		return nil
	}
	file, err := k.keys(title)
	if err != nil {
		return err
	}
	if want := slices.Concat(k.besides, bytes.TrimSpace(present.Public), []byte("\n")); !bytes.Equal(file, want) {
		return fmt.Errorf("STUCK: the keys that open the target of %s are\n%swhere the vault's is\n%s", title, file, want)
	}
	for _, c := range f[title] {
		if c.Secret.Equal(present.Secret) {
			continue
		}
		if open, err := k.accepts(ctx, title, c); err != nil || open {
			return errors.Join(err, fmt.Errorf("STUCK: a former key of %s opens its target still: %v", title, open))
		}
	}
	return nil
}

// holds says whether the vault has what opens the target at this moment: as the record's
// value, or staged beside it. Runs may go on meanwhile, so a refusal counts when it was
// given three times.
func (w *world) holds(ctx context.Context, k kindOfTarget, title string) error {
	for range 3 {
		r, err := w.record(ctx, title)
		if err != nil {
			return err
		}
		value, _ := r.Secret()
		secrets := []sdk.Secret{value}
		if r.Candidate != nil { // first: a wrong guess takes a second
			secrets = []sdk.Secret{r.Candidate.Value, value}
		}
		for _, secret := range secrets {
			if ok, err := k.accepts(ctx, title, sdk.Credential{Kind: k.kind, Secret: secret}); err != nil || ok {
				return err
			}
		}
	}
	return fmt.Errorf("LOST: at this moment the vault has nothing that opens the target of %s", title)
}

// report leaves a line for the end of the test command.
func report(t *testing.T, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if t.Failed() { // whatever was counted
		line = "FAILED: " + strings.ReplaceAll(line, "\n", "\nFAILED: ")
	}
	t.Log(line)
	if dir := os.Getenv("ROTUNDA_REPORT"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, t.Name()), []byte(line+"\n"), 0o644); err != nil {
			t.Error(err)
		}
	}
}
