package main

import (
	"context"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// agentOption names the agent that is to do it.
func (c *cli) agentOption(ctx context.Context, cl *client.Client, name string) (seal.ID, error) {
	if name == "" {
		return seal.ID{}, nil
	}
	e, err := cl.Find(ctx, name, trustv1.EntryKind_ENTRY_KIND_AGENT)
	if err != nil {
		return seal.ID{}, err
	}
	return seal.IDFrom(e.EntryId)
}

func (c *cli) resourceTestCmd() *cobra.Command {
	var agent string
	cmd := c.leaf("test RESOURCE", "log in to a resource as its administrator and change nothing", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			ref, err := findResource(ctx, cl, args[0])
			if err != nil {
				return err
			}
			id, err := c.agentOption(ctx, cl, agent)
			if err != nil {
				return err
			}
			c.note("asking an agent of the resource's pool")
			reply, err := cl.Test(ctx, ref, client.RunOptions{Agent: id})
			if err != nil {
				return err
			}
			v := struct {
				OK     bool   `json:"ok"`
				Agent  string `json:"agent"`
				Class  string `json:"class,omitempty"`
				Reason string `json:"reason,omitempty"`
				Detail string `json:"detail,omitempty"`
			}{reply.OK, reply.AgentName, reply.Class, reply.Reason, reply.Detail}
			err = c.emit(v, func(w io.Writer) {
				answer := "logged in"
				if !v.OK {
					answer = "not logged in"
				}
				pairs(w, "result", answer, "agent", v.Agent, "class", v.Class, "reason", v.Reason, "detail", v.Detail)
			})
			if err == nil && !v.OK {
				f := failf(exitFailed, orWord(v.Reason, "test_failed"), "agent %s could not log in to %s", v.Agent, args[0])
				if v.Reason == "target_identity" {
					return f.withHint("`rotunda resource probe %s` shows the keys that the target has", args[0])
				}
				return f.withHint("%s", client.Hint(v.Reason))
			}
			return err
		})
	})
	cmd.Flags().StringVar(&agent, "agent", "", "agent to ask (default: a live one of the pool)")
	return cmd
}

func orWord(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// probeView is what an agent sees of a target's keys.
type probeView struct {
	Agent   string   `json:"agent"`
	Address string   `json:"address"`
	TLSKeys []string `json:"tls_spki_sha256"`
	Subject string   `json:"tls_subject,omitempty"`
	SSHKeys []sshKey `json:"ssh_host_keys"`
	First   string   `json:"first_ssh_host_key,omitempty"` // that the agent saw first and goes by
	Class   string   `json:"class,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Detail  string   `json:"detail,omitempty"`
	Pinned  bool     `json:"pinned"`
}

type sshKey struct {
	Type   string `json:"type"`
	SHA256 string `json:"sha256"`
}

func viewProbe(r client.ProbeReply) probeView {
	v := probeView{
		Agent: r.AgentName, Address: r.Address, Subject: r.TLSSubject, Class: r.Class, Reason: r.Reason, Detail: r.Detail,
		TLSKeys: []string{}, SSHKeys: []sshKey{},
	}
	for _, k := range r.TLSKeys {
		v.TLSKeys = append(v.TLSKeys, k.String())
	}
	for i, k := range r.SSHKeys {
		key := sshKey{SHA256: client.SSHFingerprint(k)}
		if i < len(r.SSHKeyTypes) {
			key.Type = r.SSHKeyTypes[i]
		}
		v.SSHKeys = append(v.SSHKeys, key)
	}
	if !r.FirstSSHKey.IsZero() {
		v.First = client.SSHFingerprint(r.FirstSSHKey)
	}
	return v
}

// changed says whether the key that the agent goes by is not among those that it sees.
func (v probeView) changed() bool {
	return v.First != "" && !slices.ContainsFunc(v.SSHKeys, func(k sshKey) bool { return k.SHA256 == v.First })
}

func showProbe(w io.Writer, v probeView) {
	lines := []string{"agent", v.Agent, "address", v.Address, "certificate", v.Subject, "class", v.Class, "reason", v.Reason, "detail", v.Detail}
	for _, k := range v.TLSKeys {
		lines = append(lines, "tls key", k)
	}
	for _, k := range v.SSHKeys {
		lines = append(lines, "ssh host key", k.SHA256+" "+k.Type)
	}
	if v.First != "" {
		lines = append(lines, "seen first", v.First)
	}
	if v.changed() {
		lines = append(lines, "warning", "the agent goes by the key that it saw first: the target has a new one, or somebody stands in between")
	}
	pairs(w, lines...)
}

func (c *cli) resourceProbeCmd() *cobra.Command {
	var agent string
	var pin bool
	cmd := c.leaf("probe RESOURCE", "show a target's TLS and host keys as an agent sees them, and pin them", func(ctx context.Context, args []string) error {
		return c.with(ctx, func(cl *client.Client) error {
			ref, err := findResource(ctx, cl, args[0])
			if err != nil {
				return err
			}
			id, err := c.agentOption(ctx, cl, agent)
			if err != nil {
				return err
			}
			c.note("asking an agent of the resource's pool")
			reply, err := cl.Probe(ctx, ref, client.RunOptions{Agent: id})
			if err != nil {
				return err
			}
			v := viewProbe(reply)
			if reply.Class != "" || len(v.TLSKeys)+len(v.SSHKeys) == 0 {
				if err := c.emit(v, func(w io.Writer) { showProbe(w, v) }); err != nil {
					return err
				}
				return failf(exitFailed, orWord(v.Reason, "probe_failed"), "agent %s saw no key of %s", v.Agent, args[0]).withHint("%s", client.Hint(v.Reason))
			}
			if pin {
				if err := c.confirmPins(v); err != nil {
					return err
				}
				if err := cl.Pin(ctx, ref, reply); err != nil {
					return err
				}
				v.Pinned = true
				return c.emit(v, func(io.Writer) { c.note("pinned") })
			}
			return c.emit(v, func(w io.Writer) {
				showProbe(w, v)
				c.note("to pin them: rotunda resource probe %s --pin", args[0])
			})
		})
	})
	cmd.Flags().StringVar(&agent, "agent", "", "agent to ask (default: a live one of the pool)")
	cmd.Flags().BoolVar(&pin, "pin", false, "put the keys into the resource's statement, after a question")
	return cmd
}

// confirmPins asks before keys are pinned, which are shown where the question is.
func (c *cli) confirmPins(v probeView) error {
	if !c.json {
		if err := c.emit(v, func(w io.Writer) { showProbe(w, v) }); err != nil {
			return err
		}
	}
	if c.willAsk() && (c.json || !c.p.stdoutTerminal) {
		showProbe(c.p.stderr, v)
	}
	return c.confirm("compare the keys with what the target's administrator says; pin them")
}
