package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// scriptFlags say what runs after the rotations of an account, or of a resource's accounts.
type scriptFlags struct {
	use  []string
	drop []string
}

func (s *scriptFlags) flags(cmd *cobra.Command, of string) {
	f := cmd.Flags()
	f.StringArrayVar(&s.use, "script", nil, of+"script to run after a rotation, as `NAME[,order=N,param.P=V,record.R=TITLE]`; a list is param.P=A,param.P=B, and a part with a comma in it stands in \"double quotes\"; may be repeated")
	f.StringArrayVar(&s.drop, "drop-script", nil, of+"`NAME` of a script that runs no more after a rotation (all: none does); may be repeated")
}

// scriptSpec is a script's use, as a flag has it.
type scriptSpec struct {
	name    string
	order   uint32
	params  [][2]string
	records map[string]string
}

// partsHint says how what a comma would part is written.
const partsHint = `a list: NAME,param.P=A,param.P=B; a value with a comma: 'NAME,"param.P=A,B"'`

// parseScriptSpec reads NAME,order=N,param.P=V,record.R=TITLE. A part with a comma in it is
// quoted as in CSV: 'NAME,"param.list=a,b"'.
func parseScriptSpec(flag, text string) (scriptSpec, error) {
	s := scriptSpec{records: map[string]string{}}
	r := csv.NewReader(strings.NewReader(text))
	parts, err := r.Read()
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return s, usagef("%s %q: write NAME,param.P=V,…, a part with a comma in \"double quotes\"", flag, text).withHint("%s", partsHint)
	}
	s.name = parts[0]
	for _, part := range parts[1:] {
		name, value, ok := strings.Cut(part, "=")
		of, field, _ := strings.Cut(name, ".")
		switch {
		case ok && name == "order":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return s, usagef("%s %q: order=%s is no number", flag, text, value)
			}
			s.order = uint32(n)
		case ok && of == "param" && field != "":
			s.params = append(s.params, [2]string{field, value})
		case ok && of == "record" && field != "":
			if s.records[field] != "" {
				return s, usagef("%s %q: the record %s is named twice", flag, text, field)
			}
			s.records[field] = value
		default:
			return s, usagef("%s %q: %q is not order=N, param.P=V or record.R=TITLE", flag, text, part).withHint("%s", partsHint)
		}
	}
	return s, nil
}

// parameters are those of a spec as JSON, each of the type that the manifest says.
func (s scriptSpec) parameters(m *script.Manifest) ([]byte, error) {
	out := map[string]any{}
	for _, p := range s.params {
		name, text := p[0], p[1]
		is := m.Parameter(name)
		if is == nil {
			_, err := m.Values(json.RawMessage(fmt.Sprintf("{%q:null}", name)))
			return nil, usagef("%w", err)
		}
		if _, twice := out[name]; twice && is.Type != script.Strings {
			return nil, usagef("the parameter %s of %s is given twice", name, m.Name)
		}
		switch is.Type {
		case script.Integer:
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, usagef("the parameter %s of %s is %q: want an integer", name, m.Name, text)
			}
			out[name] = n
		case script.Boolean:
			if text != "true" && text != "false" {
				return nil, usagef("the parameter %s of %s is %q: want true or false", name, m.Name, text)
			}
			out[name] = text == "true"
		case script.Strings:
			list, _ := out[name].([]string)
			out[name] = append(list, text)
		default:
			out[name] = text
		}
	}
	b, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	if _, err := m.Values(b); err != nil {
		return nil, usagef("%w", err).withHint("`rotunda script show` lists what it takes: --script NAME,param.P=V")
	}
	if len(out) == 0 {
		return nil, nil
	}
	return b, nil
}

// furtherRecords gives a use its further records, each with its name.
func (s scriptSpec) furtherRecords(ctx context.Context, cl *client.Client, m *script.Manifest, use *trustv1.ScriptUse) error {
	left := map[string]bool{}
	for name := range s.records {
		left[name] = true
	}
	for _, want := range m.Records {
		name, ok := s.records[want.Name]
		if !ok {
			return usagef("the script %s works with a further record, %s (%s): name it as record.%s=TITLE", m.Name, want.Name, want.About, want.Name)
		}
		delete(left, want.Name)
		types := resourceTypes[:]
		if want.As == script.AsAccount {
			types = []string{client.TypeAccount}
		}
		r, err := cl.FindRecord(ctx, name, types...)
		if err != nil {
			return err
		}
		use.RecordNames, use.Records = append(use.RecordNames, want.Name), append(use.Records, refProto(r.Ref))
	}
	for name := range left {
		return usagef("the script %s has no further record %s", m.Name, name)
	}
	return nil
}

// scriptPlace is the record that uses a script, or will.
type scriptPlace struct {
	folder seal.ID
	title  string
	on     client.Ref // the resource that it works on, or the account of one; zero: not there as it will be
}

func placeOf(r *client.Record) scriptPlace { return scriptPlace{r.Ref.Folder, r.Title, r.Ref} }

// approves asks whether a script may run there, with what the use hands it, and go where
// that leads it.
func (c *cli) approves(ctx context.Context, cl *client.Client, s *client.Script, at scriptPlace, use *trustv1.ScriptUse, place string, given []byte) error {
	if err := at.open(ctx, cl); err != nil {
		return err
	}
	f, err := cl.FindFolder(ctx, s.Ref.Folder.String())
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(f.Grants, func(g client.Grant) bool { return g.Kind == client.KindPool && g.Roles.Has(client.Read) }) {
		c.warn("no agents may read the folder %s, in which %s is, and nothing runs where it is used: `rotunda folder grant %s POOL read`", f.Name, s.Title, f.Name)
	}
	one := []client.ScriptUse{{Title: at.title, Place: place, Use: use, Given: given, On: at.on}}
	where, err := reachOf(ctx, cl, s.Manifest, one)
	if err != nil {
		return err
	}
	view := viewUse(use)
	view.Title, view.Place, view.Parameters = at.title, place, given
	return c.confirmScript(s, useLines(ctx, cl, []scriptUseView{view}), "use it in "+where)
}

// open is nil where this person may let scripts in. Without that right the statement would
// hold, and stop the record's runs.
func (at scriptPlace) open(ctx context.Context, cl *client.Client) error {
	f, err := cl.FindFolder(ctx, at.folder.String())
	if err != nil {
		return err
	}
	if !f.Roles.Has(client.ApproveScript) {
		return failf(exitDenied, "not_allowed", "you may not let scripts into %s: your roles in the folder %s are %s", at.title, f.Name, f.Roles).
			withHint("an administrator grants it: `rotunda folder grant %s YOU %s`", f.Name, f.Roles|client.ApproveScript)
	}
	return nil
}

// useOf is a statement's use of a script that this person approves for a record.
func (c *cli) useOf(ctx context.Context, cl *client.Client, flag, text string, kind script.Kind, at scriptPlace) (*trustv1.ScriptUse, []byte, error) {
	spec, err := parseScriptSpec(flag, text)
	if err != nil {
		return nil, nil, err
	}
	s, err := findScript(ctx, cl, spec.name)
	if err != nil {
		return nil, nil, err
	}
	if err := isOf(s, kind); err != nil {
		return nil, nil, err
	}
	if kind != script.AfterRotation && (spec.order != 0 || len(spec.records) > 0) {
		return nil, nil, usagef("%s %q: order and record are for scripts that run after a rotation", flag, text)
	}
	parameters, err := spec.parameters(s.Manifest)
	if err != nil {
		return nil, nil, err
	}
	use := s.Use()
	use.Order = spec.order
	if err := spec.furtherRecords(ctx, cl, s.Manifest, use); err != nil {
		return nil, nil, err
	}
	place := map[script.Kind]string{script.AfterRotation: "after a rotation"}[kind]
	return use, parameters, c.approves(ctx, cl, s, at, use, orWord(place, string(kind)), parameters)
}

// isOf refuses a script of another kind, and says where that one is used.
func isOf(s *client.Script, kind script.Kind) error {
	if s.Manifest.Kind == kind {
		return nil
	}
	return failf(exitUsage, "script_kind", "%s is a script of kind %s, and is named where one of kind %s stands", s.Title, s.Manifest.Kind, kind).
		withHint("%s", map[script.Kind]string{
			script.Rotator:       "a resource uses it: `rotunda resource edit RESOURCE --rotator " + s.Title + "`",
			script.AfterRotation: "it runs after a rotation: `rotunda record edit ACCOUNT --script " + s.Title + "`, or of all accounts of a resource, `rotunda resource edit`",
			script.Generator:     "it makes an account's secrets: `rotunda record edit ACCOUNT --generator " + s.Title + "`",
			script.Discoverer:    "it finds a resource's accounts: `rotunda resource edit RESOURCE --discoverer " + s.Title + "`",
			script.Dependents:    "an account's dependents use it: {\"resource\": …, \"script\": \"" + s.Title + "\"} in the file of `rotunda record edit ACCOUNT --dependents-file FILE`",
		}[s.Manifest.Kind])
}

// change gives the change of a list of uses that the flags ask for.
func (s *scriptFlags) change(ctx context.Context, c *cli, cl *client.Client, at scriptPlace) (func([]*trustv1.ScriptUse) []*trustv1.ScriptUse, error) {
	var dropped []*trustv1.Ref
	all := slices.Contains(s.drop, "all")
	for _, name := range s.drop {
		if name == "all" {
			continue
		}
		r, err := cl.FindRecord(ctx, name, client.TypeScript)
		if err != nil {
			return nil, err
		}
		dropped = append(dropped, refProto(r.Ref))
	}
	var added []*trustv1.ScriptUse
	for _, text := range s.use {
		use, parameters, err := c.useOf(ctx, cl, "--script", text, script.AfterRotation, at)
		if err != nil {
			return nil, err
		}
		use.Parameters = parameters
		added = append(added, use)
	}
	return func(list []*trustv1.ScriptUse) []*trustv1.ScriptUse {
		list = slices.DeleteFunc(slices.Clone(list), func(u *trustv1.ScriptUse) bool {
			return all || slices.ContainsFunc(dropped, func(r *trustv1.Ref) bool { return proto.Equal(r, u.Script) })
		})
		for _, use := range added {
			i := slices.IndexFunc(list, func(u *trustv1.ScriptUse) bool { return proto.Equal(u.Script, use.Script) && u.Order == use.Order })
			if i < 0 {
				list = append(list, use)
			} else {
				list[i] = use
			}
		}
		return list
	}, nil
}
