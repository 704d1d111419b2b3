package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// ScriptReach is where a use of a script leads it: what its manifest leaves to parameters
// and records is said here. Who approves the use approves this.
type ScriptReach struct {
	Resource bool           // it connects to its resource, of which no address is known yet
	Hosts    []string       // addresses that it may connect to
	Programs []string       // of the agent's host
	Files    []string       // likewise
	Records  []ScriptRecord // whose secrets it gets besides
}

// ScriptRecord is a further record of a use.
type ScriptRecord struct {
	script.Record
	Ref     Ref
	Title   string
	Address string // of the resource, or of the account's
}

// ReachOf says where a use leads a script: u.Use, with what is given, on a resource or in an
// account of one. The zero Ref is a resource that is not there yet.
func (c *Client) ReachOf(ctx context.Context, m *script.Manifest, u ScriptUse) (out ScriptReach, err error) {
	op := "say where the script leads in " + u.Title
	values, err := m.Values(u.Given)
	if err != nil {
		return out, fail(op, err)
	}
	if out.Records, err = c.furtherRecords(ctx, op, m, u.Use); err != nil {
		return out, err
	}
	names := map[string]string{}
	for _, r := range out.Records {
		names[r.Name] = r.Address
	}
	there, address := *m, ""
	if u.On != (Ref{}) && slices.Contains(m.Hosts, "resource") {
		o, err := c.one(ctx, op, u.On)
		if err == nil {
			o, err = c.whereUsed(ctx, op, o, nil)
		}
		if err != nil {
			return out, err
		}
		address = addressOf(o.Statement.GetResource())
	}
	if address == "" {
		there.Hosts = slices.DeleteFunc(slices.Clone(m.Hosts), func(h string) bool { return h == "resource" })
		out.Resource = len(there.Hosts) < len(m.Hosts)
	}
	if out.Hosts, err = there.Places(address, values, names); err == nil {
		out.Programs, err = m.Commands(values)
	}
	if err == nil {
		out.Files, err = m.Paths(values)
	}
	return out, fail(op, err)
}

func addressOf(r *trustv1.Resource) string {
	return net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port)))
}

// whereUsed is the resource on which a record's script works: a dependent's, the account's,
// or the record itself.
func (c *Client) whereUsed(ctx context.Context, op string, o *opened, dependent *trustv1.Ref) (*opened, error) {
	if dependent != nil {
		ref, err := refFrom(dependent)
		if err != nil {
			return nil, fail(op, err)
		}
		return c.resource(ctx, op, ref)
	}
	if o.Type == TypeAccount {
		if err := o.signed(op, "account", o.Statement.GetAccount() != nil); err != nil {
			return nil, err
		}
		return c.resourceOf(ctx, op, o)
	}
	return o, o.signed(op, "resource", o.Statement.GetResource() != nil)
}

// furtherRecords opens the further records of a use, each by its name: a script's other file
// that has other names for them, or wants another kind of record, gets none.
func (c *Client) furtherRecords(ctx context.Context, op string, m *script.Manifest, u *trustv1.ScriptUse) (out []ScriptRecord, err error) {
	at, err := m.Bind(u.RecordNames)
	if err == nil && len(u.Records) != len(at) {
		err = errors.New("it has names of other records than it is given")
	}
	if err != nil {
		return nil, &Error{
			Class: Invalid, Reason: "script.records", Op: op, Err: fmt.Errorf("the script %s: %w", m.Name, err),
			Hint: "use it with the records that it works with: --script NAME,record.NAME=TITLE",
		}
	}
	for n, want := range m.Records {
		ref, err := refFrom(u.Records[at[n]])
		if err != nil {
			return nil, fail(op, err)
		}
		o, err := c.one(ctx, op, ref)
		if err != nil {
			return nil, err
		}
		if want.As == script.AsAccount && o.Type != TypeAccount || want.As == script.AsResource && !isResource(o.Type) {
			return nil, invalid(op, "the record %s of the script %s is meant to be %s, which %s is not", want.Name, m.Name, map[string]string{script.AsAccount: "an account", script.AsResource: "a resource"}[want.As], o.Title)
		}
		resource, err := c.whereUsed(ctx, op, o, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, ScriptRecord{Record: want, Ref: ref, Title: o.Title, Address: addressOf(resource.Statement.GetResource())})
	}
	return out, nil
}

// FormerScript is a script's file of this hash, now or formerly; nil where its history has
// it no more.
func (c *Client) FormerScript(ctx context.Context, s *Script, sum seal.Digest) ([]byte, error) {
	if s.SHA256 == sum {
		return s.Text, nil
	}
	list, err := c.History(ctx, s.Ref)
	if err != nil {
		return nil, err
	}
	for _, h := range list {
		if h.data == nil {
			continue
		}
		if text, ok := h.data.Text(record.ScriptText); ok && seal.Hash(text) == sum {
			return text, nil
		}
	}
	return nil, nil
}
