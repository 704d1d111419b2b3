package client

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/span"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// fact is one thing that a statement says, in full and in words.
type fact struct{ name, value string }

// factsOf is everything that a statement's subject says: who signs it anew has seen it
// all. What is not set is left out.
func (c *Client) factsOf(s *trustv1.Statement, title func(*trustv1.Ref) string) []fact {
	var out []fact
	add := func(name, format string, args ...any) {
		if v := fmt.Sprintf(format, args...); v != "" && v != "0" {
			out = append(out, fact{name, v})
		}
	}
	scripts := func(list []*trustv1.ScriptUse) {
		for n, u := range list {
			add(fmt.Sprintf("script %d", n+1), "%s, sha256 %x, order %d, parameters %s, records %s", title(u.Script), u.Sha256, u.Order, orElse(string(u.Parameters), "none"), orElse(named(u, title), "none"))
		}
	}
	switch {
	case s.GetResource() != nil:
		r := s.GetResource()
		add("pool", "%s", c.nameOf(idOr(r.PoolId)))
		add("plugin", "%s", r.Plugin)
		if u := r.Rotator; u != nil {
			add("rotator", "%s, sha256 %x", title(u.Script), u.Sha256)
		}
		if u := r.Discoverer; u != nil {
			add("discoverer", "%s, sha256 %x, parameters %s", title(u.Script), u.Sha256, orElse(string(u.Parameters), "none"))
		}
		add("host", "%s", r.Host)
		add("port", "%d", r.Port)
		add("via", "%s", title(r.Via))
		if t := r.Tls; t != nil {
			add("tls", "%s", strings.ToLower(strings.TrimPrefix(t.Mode.String(), "TLS_MODE_")))
			add("tls server name", "%s", t.ServerName)
			add("tls pins", "%s", joined(t.SpkiSha256, hex.EncodeToString))
		}
		add("ssh host keys", "%s", joined(r.SshHostKeySha256, func(b []byte) string { return SSHFingerprint(seal.Digest(b)) }))
		if r.Tofu {
			add("ssh host key", "the first that an agent sees")
		}
		add("administrator", "%s", title(r.AdminAccount))
		for _, x := range r.Extras {
			add("extra "+x.Name, "%s", title(x.Account))
		}
		scripts(r.Scripts)
		add("config", "%s", r.Config)
		add("runs at once", "%d", r.Concurrency)
	case s.GetAccount() != nil:
		a := s.GetAccount()
		add("resource", "%s", title(a.Resource))
		add("login", "%s", a.Login)
		add("scope", "%s", a.Scope)
		add("secret kind", "%s", a.SecretKind)
		if p := a.Policy; p != nil {
			add("password policy", "length %d, lower %d, upper %d, digits %d, symbols %d of %q, without %q", p.Length, p.MinLower, p.MinUpper, p.MinDigit, p.MinSymbol, p.Symbols, p.Exclude)
		}
		if u := a.Generator; u != nil {
			add("generator", "%s, sha256 %x, parameters %s", title(u.Script), u.Sha256, u.Parameters)
		}
		add("verify mode", "%s", a.VerifyMode)
		add("failed logins a run", "%d", a.MaxProbe)
		add("pair", "%s", title(a.PairAccount))
		for n, d := range a.Dependents {
			by := ""
			if u := d.Script; u != nil {
				by = fmt.Sprintf(", script %s, sha256 %x", title(u.Script), u.Sha256)
			}
			add(fmt.Sprintf("dependent %d", n+1), "%s, plugin %s%s, config %s", title(d.Resource), d.Plugin, by, d.Config)
		}
		if a.DrainS > 0 {
			add("former secret works for", "%s", span.Text(time.Duration(a.DrainS)*time.Second))
		}
		scripts(a.Scripts)
		if m := a.Mandate; m.GetEnabled() {
			add("scheduled runs", "at most every %s, until %s", span.Text(time.Duration(m.MinIntervalS)*time.Second), when(m.ValidUntil).Format(time.DateOnly))
		}
	case s.GetScript() != nil:
		f := s.GetScript()
		add("script", "%s %s, kind %s", f.Name, f.Version, f.ScriptKind)
		add("sha256", "%x", f.Sha256)
		add("manifest sha256", "%x", f.ManifestSha256)
	}
	return out
}

func joined[T any](list []T, text func(T) string) string {
	var out []string
	for _, v := range list {
		out = append(out, text(v))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// named are the further records of a use, each after its name.
func named(u *trustv1.ScriptUse, title func(*trustv1.Ref) string) string {
	var out []string
	for n, r := range u.Records {
		text := title(r)
		if n < len(u.RecordNames) {
			text = u.RecordNames[n] + "=" + text
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// difference says what a statement changed of a former one, line by line; of none
// (former nil), all that it says.
func difference(former, now []fact) []string {
	value := func(list []fact, name string) string {
		for _, f := range list {
			if f.name == name {
				return f.value
			}
		}
		return "(none)"
	}
	var out []string
	for _, f := range now {
		switch was := value(former, f.name); {
		case former == nil:
			out = append(out, f.name+": "+f.value)
		case was != f.value:
			out = append(out, fmt.Sprintf("%s: %s → %s", f.name, was, f.value))
		}
	}
	for _, f := range former {
		if value(now, f.name) == "(none)" {
			out = append(out, fmt.Sprintf("%s: %s → (none)", f.name, f.value))
		}
	}
	return out
}

// sameSubject says whether two statements say the same of the same kind of record.
func sameSubject(a, b *trustv1.Statement) bool {
	bare := func(s *trustv1.Statement) *trustv1.Statement {
		s = proto.CloneOf(s)
		s.V, s.LogEpoch, s.LogDigest, s.Seq, s.Prev, s.Issued = 0, 0, nil, 0, nil, 0
		return s
	}
	return proto.Equal(bare(a), bare(b))
}

// newestFormer fetches the newest former statement of each record, all of them in a few
// calls.
func (c *Client) newestFormer(ctx context.Context, records []*opened) (map[Ref]*clientv1.StatementView, error) {
	newest := map[Ref]*clientv1.StatementView{}
	for part := range slices.Chunk(records, pageSize) {
		q := &clientv1.GetFormerStatementsRequest{}
		for _, o := range part {
			q.Refs = append(q.Refs, o.Ref.Proto())
		}
		answer, err := call(ctx, c, "look at former statements", c.conn.GetFormerStatements, q)
		if err != nil {
			return nil, err
		}
		for _, v := range answer.Statements {
			ref, err := refFrom(v.Ref)
			if err != nil {
				return nil, badServer("look at former statements", "record: %w", err)
			}
			if v.Statement == nil {
				return nil, badServer("look at former statements", "a former statement of %s that is none", ref)
			}
			newest[ref] = v.Statement
		}
	}
	return newest, nil
}

// formerBy is the newest statement before a record's present one whose signer is live
// and not among those who go; nil where there is none, or the server shows another
// chain than the one that was signed. Where newest settles it, the server is not asked.
func (c *Client) formerBy(ctx context.Context, o *opened, newest *clientv1.StatementView, gone map[seal.ID]bool) (*trust.Statement, error) {
	next := o.Statement.Prev
	keys := c.keysOf(o)
	look := func(v *clientv1.StatementView) (found *trust.Statement, more bool) {
		digest, err := seal.DigestFrom(next)
		if err != nil {
			return nil, false // the first statement has no former one
		}
		var signed []byte
		err = keys.open(ctx, func(k seal.Key) (err error) {
			signed, err = seal.OpenExt(c.facts.OrgID, k, o.Ref.Record, seal.ExtStatement, v.Blob)
			return err
		})
		if err != nil {
			return nil, false
		}
		s, err := trust.FormerStatement(c.log, signed, digest)
		if err != nil || s.Ref != o.Ref {
			return nil, false
		}
		if !s.Signer.ID.IsZero() && !gone[s.Signer.ID] {
			return s, false
		}
		next = s.Prev
		return nil, true
	}
	if newest != nil {
		if found, more := look(newest); !more {
			return found, nil
		}
		next = o.Statement.Prev
	}
	if len(next) == 0 {
		return nil, nil
	}
	op := "look at the former statements of " + o.Title
	q := &clientv1.ListStatementsRequest{Ref: o.Ref.Proto(), Page: &clientv1.Page{Size: 8}}
	for {
		page, err := call(ctx, c, op, c.conn.ListStatements, q)
		if err != nil {
			return nil, err
		}
		for _, v := range page.Statements {
			if found, more := look(v); !more {
				return found, nil
			}
		}
		if page.Next == "" || page.Next == q.Page.Token {
			return nil, nil
		}
		q.Page.Token = page.Next
	}
}
