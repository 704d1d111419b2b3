package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// exists is the error of a second bearer of a name: commands could not tell the two apart.
func exists(op, what, id, hint string) error {
	return &Error{Class: Conflict, Reason: "exists", Op: op, Err: fmt.Errorf("%s exists already: %s", what, id), Hint: hint}
}

// nameFree refuses a name that a live entry of the kind bears, or a token that waits for
// one, among those of one owner (members, pools, apps: none).
func nameFree(l *trust.Log, op string, kind trustv1.EntryKind, owner seal.ID, name string, now time.Time) error {
	for _, e := range l.Entries(kind, KindEnrolment) {
		if e.Name != name || e.Owner != owner || e.Kind == KindEnrolment && (e.TargetKind != kind || e.Expired(now)) {
			continue
		}
		what := kindWords([]trustv1.EntryKind{kind}) + " " + name
		if e.Kind == KindEnrolment {
			what = "a token for the " + what
		}
		return exists(op, what, e.ID.String(), "take another name, or remove that one first")
	}
	return nil
}

// textual refuses what the record format, which is JSON, would change or drop.
func textual(what, s string) error {
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return invalid("", "the %s must be text: UTF-8 without NUL bytes", what)
	}
	return nil
}

// taken is what the records that the caller may read have already: titles, which are
// unique in their folder, and logins, which are unique on their resource.
type taken struct {
	titles      map[titleKey]string // to who has it, for people
	logins      map[loginKey]string
	directories map[Ref]bool
}

type titleKey struct {
	folder seal.ID
	title  string
}

// loginKey is what two accounts must not share: a rotation of one would end the secret
// of the other.
type loginKey struct {
	resource Ref
	login    string
	kind     string // the password and the key of one login are two secrets
	scope    string // of directories alone: elsewhere it says where to look the login up
	public   string // of an ssh_key: a login may have several, and each ends by itself
}

// takenIn reads what the records of a folder (zero: of all) have, but for one.
func (c *Client) takenIn(ctx context.Context, folder seal.ID, except Ref) (*taken, error) {
	t := &taken{titles: map[titleKey]string{}, logins: map[loginKey]string{}, directories: map[Ref]bool{}}
	type account struct {
		*trustv1.Account
		public, name string
	}
	var accounts []account
	err := c.walk(ctx, folder, nil, func(o *opened) bool {
		t.directories[o.Ref] = o.Type == TypeDirectory
		if o.Ref == except || o.content == nil {
			return true
		}
		name := fmt.Sprintf("%s (%s)", o.Title, o.Ref)
		t.titles[titleKey{o.Ref.Folder, o.Title}] = name
		if a := o.Statement.GetAccount(); a != nil {
			accounts = append(accounts, account{a, o.PublicKey(), name})
		}
		return true
	})
	for _, a := range accounts { // now that every resource's type is known
		if key, ok := t.loginKey(a.Account, a.public); ok {
			t.logins[key] = a.name
		}
	}
	return t, err
}

// loginKey is an account's; there is none of one that has nothing to share yet.
func (t *taken) loginKey(a *trustv1.Account, public string) (loginKey, bool) {
	resource, err := refFrom(a.GetResource())
	if err != nil || a.GetLogin() == "" || a.GetSecretKind() == SecretSSHKey && public == "" {
		return loginKey{}, false
	}
	key := loginKey{resource: resource, login: a.GetLogin(), kind: a.GetSecretKind()}
	if key.kind == "" {
		key.kind = SecretPassword
	}
	if key.kind == SecretSSHKey {
		key.public = strings.Join(strings.Fields(public)[:min(2, len(strings.Fields(public)))], " ") // without the comment
	}
	if t.directories[resource] {
		key.scope = a.GetScope()
	}
	return key, true
}

// title refuses a title that another record of the folder has.
func (t *taken) title(folder seal.ID, title string) error {
	if name, ok := t.titles[titleKey{folder, title}]; ok {
		return exists("", "in this folder a record of this title", name, "commands find records by their titles: take another title, or another folder")
	}
	return nil
}

// login refuses an account whose secret is another account's, too.
func (t *taken) login(a *trustv1.Account, public string) error {
	key, ok := t.loginKey(a, public)
	if !ok {
		return nil
	}
	name, ok := t.logins[key]
	if !ok {
		return nil
	}
	what := "a " + strings.ReplaceAll(key.kind, "_", " ")
	if key.kind == SecretSSHKey {
		what = "the same ssh key"
	} else if key.kind == SecretAPIKey {
		what = "an API key"
	}
	return &Error{
		Class: Conflict, Reason: "same_login",
		Err:  fmt.Errorf("%s holds %s of the login %q on this resource already: a rotation of one would end the other's secret", name, what, key.login),
		Hint: "use that record, or remove it; if the target takes them for two logins (as by their --scope), say --same-login",
	}
}

// add notes a record that is being made.
func (t *taken) add(folder seal.ID, data *record.Record, a *trustv1.Account, name string) {
	t.titles[titleKey{folder, data.Title()}] = name
	if a == nil {
		return
	}
	if key, ok := t.loginKey(a, publicKeyOf(data)); ok {
		t.logins[key] = name
	}
}

func publicKeyOf(data *record.Record) string {
	k, _ := data.KeyPair()
	return k.PublicKey
}

// checkFree refuses a new record, or the next state of one (self), whose title or login
// another has. What stays as it was is not looked at: it may be older than this rule.
func (c *Client) checkFree(ctx context.Context, folder seal.ID, self *opened, data *record.Record, a *trustv1.Account, sameLogin bool) error {
	except, title, login := Ref{}, true, a != nil && !sameLogin
	if self != nil {
		except, title = self.Ref, self.Title != data.Title()
		t := &taken{}
		before, had := t.loginKey(self.Statement.GetAccount(), self.PublicKey())
		after, has := t.loginKey(a, publicKeyOf(data))
		moved := before != after || self.Statement.GetAccount().GetScope() != a.GetScope()
		login = login && has && (!had || moved)
	}
	if !title && !login {
		return nil
	}
	in := folder
	if login {
		in = seal.ID{} // the other account may be in any
	}
	t, err := c.takenIn(ctx, in, except)
	if err != nil {
		return err
	}
	if title {
		if err := t.title(folder, data.Title()); err != nil {
			return err
		}
	}
	if login {
		return t.login(a, publicKeyOf(data))
	}
	return nil
}

// Use is a record that names another.
type Use struct {
	Ref   Ref
	Title string
	As    string // administrator, extra, resource, …
}

func (u Use) String() string { return fmt.Sprintf("%s (%s), as its %s", u.Title, u.Ref, u.As) }

// Uses lists the records that name one, among those that the caller may read.
func (c *Client) Uses(ctx context.Context, ref Ref) ([]Use, error) {
	var out []Use
	err := c.walk(ctx, seal.ID{}, nil, func(o *opened) bool {
		if o.Statement == nil || o.Ref == ref {
			return true
		}
		var as []string
		for _, r := range trust.References(o.Statement) {
			if r.Ref == ref && !slices.Contains(as, r.As) {
				as = append(as, r.As)
				out = append(out, Use{Ref: o.Ref, Title: o.Title, As: r.As})
			}
		}
		return true
	})
	return out, err
}
