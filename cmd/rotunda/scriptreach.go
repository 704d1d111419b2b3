package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/rotunda-pam/rotunda/client"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// reachOf says where a script is used, and where each use leads it: what the manifest leaves
// to parameters and records stands in the question that is answered.
func reachOf(ctx context.Context, cl *client.Client, m *script.Manifest, uses []client.ScriptUse) (string, error) {
	var out []string
	for _, u := range uses {
		reach, err := cl.ReachOf(ctx, m, u)
		if err != nil {
			return "", err
		}
		text := u.Title
		if r := reachText(reach); r != "" {
			text += " (" + r + ")"
		}
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return strings.Join(out, ", "), nil
}

// reachText is where one use leads its script. Further titles, and paths, are quoted: nobody makes
// one of them look like two, or like an end.
func reachText(r client.ScriptReach) string {
	var parts []string
	hosts := r.Hosts
	if r.Resource {
		hosts = append([]string{"its resource"}, hosts...)
	}
	if len(hosts) > 0 {
		parts = append(parts, "connects to "+strings.Join(hosts, ", "))
	}
	if len(r.Programs) > 0 {
		parts = append(parts, "runs "+inQuotes(r.Programs)+" on the agent's host")
	}
	if len(r.Files) > 0 {
		parts = append(parts, "reads and writes "+inQuotes(r.Files)+" on the agent's host")
	}
	for _, f := range r.Records {
		gets := "the administrator's login and secret"
		if f.As == script.AsAccount {
			gets = "login and secret"
		}
		parts = append(parts, fmt.Sprintf("gets %s of %q, %s, as %s", gets, f.Title, f.Address, f.Name))
	}
	return strings.Join(parts, "; ")
}

func inQuotes(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, strconv.Quote(s))
	}
	return strings.Join(out, ", ")
}

// sinceApproved is what a script's file has that the files had not which were approved where
// it is used.
func sinceApproved(ctx context.Context, cl *client.Client, s *client.Script, uses []client.ScriptUse) (out []string, err error) {
	in := map[seal.Digest][]string{}
	var sums []seal.Digest
	for _, u := range uses {
		sum, err := seal.DigestFrom(u.Use.Sha256)
		if err != nil {
			return nil, err
		}
		if in[sum] == nil {
			sums = append(sums, sum)
		}
		if !slices.Contains(in[sum], u.Title) {
			in[sum] = append(in[sum], u.Title)
		}
	}
	for _, sum := range sums {
		text, err := cl.FormerScript(ctx, s, sum)
		if err != nil {
			return nil, err
		}
		out = append(out, formerly(s, sum, text, strings.Join(in[sum], ", "))...)
	}
	return out, nil
}

// formerly is the difference to one former file; nil text: the history has it no more.
func formerly(s *client.Script, sum seal.Digest, text []byte, in string) []string {
	if text == nil {
		return []string{fmt.Sprintf("the file that was approved in %s, sha256 %s, is no more to be had, so that no difference can be shown: --show shows the whole new one", in, sum)}
	}
	out := []string{fmt.Sprintf("since the file that was approved in %s, sha256 %s:", in, sum)}
	lines := string(diff.Diff(s.Title+" as approved", text, s.Title, s.Text))
	was, err := script.Parse(text)
	if err != nil { // of a version that took other manifests
		return append(out, textLines(lines)...)
	}
	return append(out, differs(without(s.Manifest.Asks(), was.Asks()), without(was.Asks(), s.Manifest.Asks()), lines)...)
}

// textLines are a text's lines, for shownText.
func textLines(text string) []string { return strings.Split(strings.TrimRight(text, "\n"), "\n") }
