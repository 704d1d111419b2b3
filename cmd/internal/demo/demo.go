package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/targets"
	"github.com/rotunda-pam/rotunda/sdk"
)

// demo is one demonstration: what was started, and the count of claims.
type demo struct {
	out          io.Writer
	start        time.Time
	claims, held int
	dir          string // of the installation

	rotunda *installation.Installation
	agent   *installation.Agent
	pg      *targets.PG
	sshd    *targets.SSHD // nil without root

	accounts []*account
	secrets  []sdk.Secret // every secret that was in use at any time
}

// account is one account of the demonstration, and how its target is asked.
type account struct {
	title   string
	kind    sdk.Kind
	current sdk.Credential
	accepts func(context.Context, sdk.Credential) (bool, error)
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "%5.1f s  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// claim counts a claim and says whether it holds.
func (d *demo) claim(holds bool, format string, args ...any) {
	d.claims++
	word := "HOLDS "
	if holds {
		d.held++
	} else {
		word = "BROKEN"
	}
	d.say("  %s %s", word, fmt.Sprintf(format, args...))
}

// up starts the targets, the server and an agent, and makes the accounts.
func (d *demo) up(ctx context.Context, bin, server, dir string) (err error) {
	if err := targets.Install(ctx, func(s string) { d.say("%s", s) }, targets.PostgreSQL, targets.OpenSSHD); err != nil && !errors.Is(err, targets.ErrUnavailable) {
		return err
	}
	d.say("starting a PostgreSQL of its own")
	if d.pg, err = targets.StartPostgres(ctx, filepath.Join(dir, "pg")); err != nil {
		return err
	}
	if os.Geteuid() == 0 && d.hasPlugin(bin, "ssh") {
		d.say("starting an sshd of its own, with throw-away Unix accounts")
		if d.sshd, err = targets.StartSSHD(ctx, filepath.Join(dir, "sshd"), targets.SSHDOptions{Lines: []string{"Subsystem sftp internal-sftp"}}); err != nil {
			return err
		}
	} else {
		d.say("left out: sshd and Unix accounts, since this is not root, or the ssh plugin is not built")
	}
	d.say("starting a server (SQLite, its own certificate authority) and making an organisation")
	d.say("the server is a curious operator's: it writes down all that it decrypts")
	if d.rotunda, err = installation.Start(ctx, installation.Options{Bin: bin, Dir: d.dir, Curious: server, Listen: true, Tap: true}); err != nil {
		return err
	}
	d.say("enrolling an agent by a one-time token")
	if d.agent, err = d.rotunda.AddAgent(ctx, "gw1", installation.Pool); err != nil {
		return err
	}
	if err := d.rotunda.AddFolder(ctx); err != nil {
		return err
	}
	return d.addAccounts(ctx)
}

// hasPlugin says whether the build has a plugin of that name.
func (d *demo) hasPlugin(bin, name string) bool {
	found, _ := filepath.Glob(filepath.Join(bin, "plugins", name+"@*"))
	return len(found) > 0
}

func (d *demo) addAccounts(ctx context.Context) error {
	d.say("creating records")
	d.secrets = append(d.secrets, d.pg.AdminPassword)
	if err := d.rotunda.AddPostgres(ctx, "orders-db", d.pg); err != nil {
		return err
	}
	for title, role := range map[string]string{"app": `app "one"`, "reports": "reports"} {
		pw, err := d.rotunda.AddRole(ctx, d.pg, "orders-db", title, role)
		if err != nil {
			return err
		}
		d.add(&account{title: title, kind: sdk.Password, current: sdk.Credential{Kind: sdk.Password, Secret: pw}, accepts: func(ctx context.Context, c sdk.Credential) (bool, error) {
			return d.pg.Accepts(ctx, role, c.Secret)
		}})
	}
	if d.sshd == nil {
		return nil
	}
	d.secrets = append(d.secrets, d.sshd.AdminKey)
	if err := d.rotunda.AddSSHD(ctx, "web1", d.sshd); err != nil {
		return err
	}
	for _, title := range []string{"deploy", "backup"} {
		pw := sdk.NewSecret([]byte("first-" + title + "-" + rand.Text()))
		user, err := d.sshd.CreateUser(ctx, targets.UserOptions{Password: pw})
		if err != nil {
			return err
		}
		c := sdk.Credential{Kind: sdk.Password, Secret: pw}
		if err := d.rotunda.AddUser(ctx, "web1", title, user.Name, c); err != nil {
			return err
		}
		d.add(&account{title: title, kind: sdk.Password, current: c, accepts: func(ctx context.Context, c sdk.Credential) (bool, error) {
			return d.sshd.Accepts(ctx, user.Name, c)
		}})
	}
	return nil
}

func (d *demo) add(a *account) {
	d.accounts = append(d.accounts, a)
	d.secrets = append(d.secrets, a.current.Secret)
}

func (d *demo) account(title string) *account {
	for _, a := range d.accounts {
		if a.title == title {
			return a
		}
	}
	return nil
}

// changed holds an account's new secret against the target: new accepted, old
// refused.
func (d *demo) changed(ctx context.Context, a *account, how string) error {
	now, err := d.rotunda.Credential(ctx, a.title, a.kind)
	if err != nil {
		return err
	}
	d.secrets = append(d.secrets, now.Secret)
	accepted, err := a.accepts(ctx, now)
	if err != nil {
		return err
	}
	d.claim(accepted && !now.Secret.Equal(a.current.Secret), "%s: %s has a new secret and its target accepts it", a.title, how)
	old, err := a.accepts(ctx, a.current)
	if err != nil {
		return err
	}
	d.claim(!old, "%s: its target refuses the old secret", a.title)
	a.current = now
	return nil
}

// onDemand rotates one account of each target by hand.
func (d *demo) onDemand(ctx context.Context) error {
	for _, title := range []string{"app", "deploy"} {
		a := d.account(title)
		if a == nil {
			continue
		}
		d.say("rotunda rotate %s", title)
		if o, err := d.rotunda.Rotate(ctx, title); err != nil {
			return fmt.Errorf("%w: %+v", err, o)
		}
		if err := d.changed(ctx, a, "on demand"); err != nil {
			return err
		}
	}
	return nil
}

// bySchedule lets the server start a run: no person signs it, the account's mandate
// allows it.
func (d *demo) bySchedule(ctx context.Context) error {
	at := time.Now().Add(3 * time.Second).UTC().Format(time.RFC3339)
	var waiting []*account
	for _, title := range []string{"reports", "backup"} {
		a := d.account(title)
		if a == nil {
			continue
		}
		d.say("rotunda rotation set %s --at %s", title, at)
		if _, err := d.rotunda.CLI(ctx, nil, "rotation", "set", title, "--at", at); err != nil {
			return err
		}
		waiting = append(waiting, a)
	}
	for _, a := range waiting {
		if err := d.untilRevision(ctx, a.title, 2); err != nil {
			return err
		}
		if err := d.changed(ctx, a, "by schedule"); err != nil {
			return err
		}
	}
	return nil
}

// untilRevision waits until a record has been changed.
func (d *demo) untilRevision(ctx context.Context, title string, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		r, err := d.rotunda.Record(ctx, title)
		if err != nil {
			return fmt.Errorf("%s did not change in time: %w", title, err)
		}
		if r.Revision >= revision && r.Candidate == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not change in time", title)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// killed kills the agent with SIGKILL in the middle of a rotation. An open
// transaction on the role's row holds the change there, so that the shipped program
// shows it.
func (d *demo) killed(ctx context.Context) error {
	a := d.account("app")
	before, err := d.rotunda.Record(ctx, a.title)
	if err != nil {
		return err
	}
	d.say("holding the role's row with an open transaction, then: rotunda rotate app --no-wait")
	conn, err := d.pg.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `ALTER ROLE "app ""one""" CONNECTION LIMIT 50`); err != nil {
		return err
	}
	if _, err := d.rotunda.Rotate(ctx, a.title, "--no-wait"); err != nil {
		return err
	}
	if err := d.untilBlocked(ctx); err != nil {
		return err
	}
	d.say("kill -9 of the agent, while the target has the change and has not answered")
	d.agent.Kill()
	held, err := d.rotunda.Record(ctx, a.title)
	if err != nil {
		return err
	}
	d.claim(held.Candidate != nil, "app: the candidate is at the vault, beside the record")
	if err := tx.Rollback(ctx); err != nil {
		return err
	}
	d.say("starting the agent again")
	if err := d.agent.Start(ctx); err != nil {
		return err
	}
	if err := d.untilRevision(ctx, a.title, before.Revision+1); err != nil {
		return err
	}
	return d.changed(ctx, a, "after kill -9 and a restart")
}

func (d *demo) untilBlocked(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := d.pg.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		var n int
		err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_locks WHERE NOT granted").Scan(&n)
		if err != nil {
			return err
		}
		if n > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the change did not reach the target in time")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// whatTheServerHas searches everything that the server keeps, logged, and was sent
// for every secret that was in use, in the forms in which one would lie about. It was sent
// one secret, too, so that the search has something to find.
func (d *demo) whatTheServerHas(ctx context.Context) error {
	given := sdk.NewSecret([]byte("given away " + rand.Text()))
	d.say("giving the server one secret within TLS, as the control of the search")
	if err := d.give(ctx, given); err != nil {
		return err
	}
	d.agent.Stop()
	d.rotunda.Server.Stop()
	decrypted, err := d.rotunda.Heard()
	if err != nil {
		return err
	}
	places := map[string][]byte{"the traffic": d.rotunda.Wire(), "what the server decrypted": decrypted}
	err = filepath.WalkDir(filepath.Join(d.rotunda.Dir, "server"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		places[filepath.Base(path)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		return err
	}
	for _, log := range []string{"server", "gw1"} {
		if places["log of "+log], err = os.ReadFile(filepath.Join(d.rotunda.Dir, "log", log)); err != nil {
			return err
		}
	}
	total, hits := 0, 0
	for place, data := range places {
		total += len(data)
		for _, s := range d.secrets {
			for _, form := range in(data, s) {
				hits++
				d.say("  a secret in %s (%s)", place, form)
			}
		}
	}
	d.claim(len(in(decrypted, given)) > 0 && len(in(places["the traffic"], given)) == 0,
		"the secret that it was given is found in the %d kB that it decrypted, and not in what the network carried", len(decrypted)/1024)
	d.claim(hits == 0, "none of %d others is there, or in the server's database, files, logs or traffic (%d kB searched in all, raw, base64, hex, URL form, JSON)", len(d.secrets), total/1024)
	d.claim(len(places["rotunda.db"]) > 0 && !bytes.Contains(places["rotunda.db"], []byte("orders-db")), "not even a record's title is in the database")
	return nil
}

// give sends the server a secret as a header, which no client of ours does.
func (d *demo) give(ctx context.Context, secret sdk.Secret) error {
	config, err := d.rotunda.TLS()
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+d.rotunda.Addr+"/healthz", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Given", secret.ExposeString())
	answer, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// in names the forms in which data holds a secret.
func in(data []byte, s sdk.Secret) (found []string) {
	for form, needle := range forms(s) {
		if bytes.Contains(data, needle) {
			found = append(found, form)
		}
	}
	return found
}

// forms are the shapes of a secret that are searched for.
func forms(s sdk.Secret) map[string][]byte {
	raw := s.Expose()
	f := map[string][]byte{
		"raw": raw, "hex": []byte(hex.EncodeToString(raw)), "url": []byte(url.QueryEscape(string(raw))),
		"sha256": []byte(fmt.Sprintf("%x", sha256.Sum256(raw))),
	}
	if quoted, err := json.Marshal(string(raw)); err == nil { // keys have lines
		f["JSON"] = quoted[1 : len(quoted)-1]
	}
	// Base64 depends on where the secret begins in its surroundings: the middle of
	// each of the three alignments is searched.
	for shift := range 3 {
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), raw...))
		if len(text) > 12 {
			f[fmt.Sprintf("base64 at %d", shift)] = []byte(text[4 : len(text)-4])
		}
	}
	return f
}

// down ends what was started. Nothing stays behind.
func (d *demo) down() error {
	var err error
	if d.rotunda != nil {
		d.rotunda.Close()
	}
	if d.pg != nil {
		err = errors.Join(err, d.pg.Stop())
	}
	if d.sshd != nil {
		err = errors.Join(err, d.sshd.Stop())
	}
	return err
}
