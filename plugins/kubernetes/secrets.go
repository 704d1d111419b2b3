package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// secretConfig are the settings of a dependent: a value of a Secret, which must be there,
// and the workloads that have to start anew to see it.
type secretConfig struct {
	Namespace string   `json:"namespace" required:"true" doc:"Namespace of the Secret and of the workloads."`
	Secret    string   `json:"secret" required:"true" doc:"Name of the Secret. It must be there, and not be immutable."`
	Key       string   `json:"key" required:"true" doc:"Name of the value within it that is the secret."`
	LoginKey  string   `json:"login_key" doc:"Name of the value that is the account's login, which changes with the secret where the account is one of a pair."`
	Roll      []string `json:"roll" doc:"Workloads that are rolled once the Secret is written, in this order: deployment/NAME, statefulset/NAME or daemonset/NAME. The former secret lives on until all of their pods are new."`
}

// secrets are the dependents of this plugin.
type secrets struct{}

// stepData goes with a step: of a Secret, or of a workload that is rolled for it.
type stepData struct {
	Namespace string   `json:"namespace"`
	Secret    string   `json:"secret"`
	Key       string   `json:"key"`
	LoginKey  string   `json:"login_key,omitempty"`
	Login     string   `json:"login,omitempty"`
	Former    string   `json:"former,omitempty"` // login
	Run       string   `json:"run"`              // a word for this plan, which the pods get
	Roll      []string `json:"roll,omitempty"`   // of a Secret: all, which Undo rolls; of a workload: itself
	Workload  bool     `json:"workload,omitempty"`
}

const maxRolled = 15

// kinds are the workloads that can be rolled, by their names in the API.
var kinds = map[string]string{"deployment": "deployments", "statefulset": "statefulsets", "daemonset": "daemonsets"}

func refuse(reason, format string, args ...any) error {
	return &sdk.Error{Class: sdk.ClassInvalid, Reason: reason, NotSent: true, Err: fmt.Errorf(format, args...)}
}

// Plan has the API try each change, and make none.
func (secrets) Plan(ctx context.Context, r sdk.OpenRequest, a sdk.ApplyRequest) ([]sdk.Step, error) {
	var c secretConfig
	if err := sdk.DecodeConfig(r.Resource, &c); err != nil {
		return nil, err
	}
	d := stepData{Namespace: c.Namespace, Secret: c.Secret, Key: c.Key, Roll: c.Roll, Run: rand.Text()}
	if c.LoginKey != "" {
		d.LoginKey, d.Login, d.Former = c.LoginKey, a.Account.Name, a.Account.Name
		if other, ok := a.Account.Attrs[sdk.PairAttr]; ok {
			d.Former = other
		}
	}
	switch {
	case c.Key == c.LoginKey:
		return nil, refuse("config", "key and login_key are one: %q", c.Key)
	case len(c.Roll) > maxRolled:
		return nil, refuse("config", "roll names %d workloads: at most %d", len(c.Roll), maxRolled)
	}
	k, err := open(r)
	if err != nil {
		return nil, err
	}
	if err := k.write(ctx, d, d.Login, sdk.Secret{}, true); err != nil {
		return nil, fmt.Errorf("the Secret %s: %w", d.Secret, err)
	}
	steps := []sdk.Step{newStep("secret", "write the Secret "+d.Namespace+"/"+d.Secret, d)}
	for n, w := range c.Roll {
		if slices.Contains(c.Roll[:n], w) {
			return nil, refuse("config", "roll names %s twice", w)
		}
		if err := k.canRoll(ctx, d, w); err != nil {
			return nil, fmt.Errorf("the workload %s: %w", w, err)
		}
		steps = append(steps, newStep(w, "roll "+d.Namespace+"/"+w, stepData{Namespace: d.Namespace, Secret: d.Secret, Key: d.Key, Roll: []string{w}, Run: d.Run, Workload: true}))
	}
	return steps, nil
}

func newStep(id, title string, d stepData) sdk.Step {
	data, _ := json.Marshal(d) // of strings
	return sdk.Step{ID: id, Title: shorten(title), Data: data}
}

// shorten keeps a title within its bounds.
func shorten(title string) string {
	return strings.ToValidUTF8(title[:min(len(title), 250)], "")
}

// Do writes the Secret, or rolls a workload and waits until its pods are new. A workload
// that is not done when the time is over is waited for again.
func (secrets) Do(ctx context.Context, r sdk.OpenRequest, s sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	d, k, err := begin(r, s)
	if err != nil {
		return sdk.StepResponse{}, err
	}
	if d.Workload {
		return answer(k.rolled(ctx, d, d.Roll[0]))
	}
	return answer(k.write(ctx, d, d.Login, c.Secret, false))
}

// Undo writes the former secret, and then rolls every workload, new or not: they were
// undone first, when it was not there yet. One that is gone has nobody who uses it.
func (secrets) Undo(ctx context.Context, r sdk.OpenRequest, s sdk.Step, c sdk.Credential) (sdk.StepResponse, error) {
	d, k, err := begin(r, s)
	if err != nil || d.Workload {
		return sdk.StepResponse{Outcome: sdk.Changed}, err
	}
	if err := k.write(ctx, d, d.Former, c.Secret, false); err != nil {
		return answer(err)
	}
	var left error
	for _, w := range d.Roll {
		if err := k.roll(ctx, d, w, d.Run+"-undone", false); err != nil && !isReason(err, "workload.missing") {
			left = errors.Join(left, err)
		}
	}
	if left != nil { // the Secret is written: it is not unchanged, and something was sent
		return sdk.StepResponse{}, rolling(left)
	}
	return sdk.StepResponse{Outcome: sdk.Changed}, nil
}

func begin(r sdk.OpenRequest, s sdk.Step) (d stepData, k api, err error) {
	if err := json.Unmarshal(s.Data, &d); err != nil || d.Secret == "" || d.Workload && len(d.Roll) != 1 {
		return d, k, refuse("step.data", "the step's data is not this plugin's")
	}
	k, err = open(r)
	return d, k, err
}

func open(r sdk.OpenRequest) (api, error) {
	if r.Admin.Kind != sdk.Token {
		return api{}, refuse("administrator.kind", "the administrator needs a token")
	}
	return api{r.Host, r.Resource, r.Admin.Secret}, nil
}

// answer says of an error what became of the step. Rights can be given back, and an
// administrator's token be renewed: only what the API says of the change itself is final.
func answer(err error) (sdk.StepResponse, error) {
	var e *sdk.Error
	if errors.As(err, &e) && !e.NotSent {
		switch e.Class {
		case sdk.ClassInvalid, sdk.ClassNotFound, sdk.ClassPolicy:
			return sdk.StepResponse{Outcome: sdk.Unchanged, Class: e.Class, Reason: e.Reason}, nil
		}
	}
	if err != nil {
		return sdk.StepResponse{}, err
	}
	return sdk.StepResponse{Outcome: sdk.Changed}, nil
}

// write writes the secret and the login. What else is in the Secret is not read.
func (k api) write(ctx context.Context, d stepData, login string, secret sdk.Secret, dry bool) error {
	at, err := path(core, d.Namespace, "secrets", d.Secret)
	if err != nil {
		return err
	}
	value := secret.Expose()
	if value == nil {
		value = []byte{} // nil would be JSON's null
	}
	defer clear(value)
	data := map[string][]byte{d.Key: value} // JSON has bytes in base64, as Secrets have
	if d.LoginKey != "" {
		data[d.LoginKey] = []byte(login)
	}
	err = k.ask(ctx, request{http.MethodPatch, at + mode(dry), oneMeta, merge, map[string]any{"data": data}}, nil)
	switch {
	case isReason(err, "account.missing"):
		err = &sdk.Error{Class: sdk.ClassNotFound, Reason: "secret.missing", Err: err}
	case isReason(err, "account.name"):
		err = &sdk.Error{Class: sdk.ClassInvalid, Reason: "secret.refused", Err: err}
	}
	return err
}

// mode makes a request one that the API tries in full, and then forgets.
func mode(dry bool) string {
	if dry {
		return "?dryRun=All"
	}
	return ""
}

// startedFor is the annotation of a workload's pods that says for which plan they were
// started, each Secret's by itself. It makes rolling repeatable.
func startedFor(d stepData) string {
	sum := sha256.Sum256([]byte(d.Secret))
	return "rotunda.dev/rolled-for-" + hex.EncodeToString(sum[:8])
}

// workload is what is read of one. Deployments, StatefulSets and DaemonSets count their
// pods under two sets of names.
type workload struct {
	Meta meta `json:"metadata"`
	Spec struct {
		Replicas *int64   `json:"replicas"`
		Paused   bool     `json:"paused"`         // of a Deployment
		Update   strategy `json:"updateStrategy"` // of the others
	} `json:"spec"`
	Status struct {
		Seen       int64 `json:"observedGeneration"`
		All        int64 `json:"replicas"`
		New        int64 `json:"updatedReplicas"`
		Ready      int64 `json:"availableReplicas"`
		DaemonAll  int64 `json:"desiredNumberScheduled"`
		DaemonNew  int64 `json:"updatedNumberScheduled"`
		DaemonUp   int64 `json:"numberAvailable"`
		Conditions []struct {
			Type   string `json:"type"`
			Reason string `json:"reason"`
		} `json:"conditions"`
	} `json:"status"`
}

type strategy struct {
	Type    string `json:"type"`
	Rolling struct {
		Partition int64 `json:"partition"`
	} `json:"rollingUpdate"`
}

// rollsNever says why a controller will not make all pods anew; empty: it will.
func (w workload) rollsNever() string {
	switch {
	case w.Spec.Paused:
		return "it is paused"
	case w.Spec.Update.Type == "OnDelete":
		return "its update strategy is OnDelete"
	case w.Spec.Update.Rolling.Partition > 0:
		return "its update strategy has a partition"
	}
	return ""
}

// done reports whether all of its pods are new, and ready. failed: its controller has given up.
func (w workload) done(kind string) (done, failed bool) {
	s := w.Status
	if s.Seen < w.Meta.Generation {
		return false, false
	}
	for _, c := range s.Conditions {
		failed = failed || c.Type == "Progressing" && c.Reason == "ProgressDeadlineExceeded"
	}
	if kind == "daemonset" {
		return s.DaemonNew >= s.DaemonAll && s.DaemonUp >= s.DaemonAll, failed
	}
	want := int64(1)
	if w.Spec.Replicas != nil {
		want = *w.Spec.Replicas
	}
	return s.New >= want && s.All <= s.New && s.Ready >= s.New, failed
}

// named splits kind/NAME, and gives its place in the API.
func named(namespace, name string) (kind, at string, err error) {
	kind, object, _ := strings.Cut(name, "/")
	plural, ok := kinds[kind]
	if !ok {
		return "", "", refuse("config", "%q in roll: write deployment/NAME, statefulset/NAME or daemonset/NAME", name)
	}
	at, err = path(apps, namespace, plural, object)
	return kind, at, err
}

// look reads a workload.
func (k api) look(ctx context.Context, at string) (w workload, err error) {
	err = k.ask(ctx, request{http.MethodGet, at, whole, "", nil}, &w)
	if isReason(err, "account.missing") {
		err = &sdk.Error{Class: sdk.ClassNotFound, Reason: "workload.missing", Err: err}
	}
	return w, err
}

// canRoll has the API try it, and looks whether its controller would ever come to an end.
func (k api) canRoll(ctx context.Context, d stepData, name string) error {
	if err := k.roll(ctx, d, name, d.Run, true); err != nil {
		return err
	}
	_, at, err := named(d.Namespace, name)
	if err != nil {
		return err
	}
	w, err := k.look(ctx, at)
	if err != nil {
		return err
	}
	if why := w.rollsNever(); why != "" {
		return refuse("workload.never", "%s: its pods are not all made anew", why)
	}
	return nil
}

// roll has a workload's controller make its pods anew, unless they were for that word.
func (k api) roll(ctx context.Context, d stepData, name, word string, dry bool) error {
	_, at, err := named(d.Namespace, name)
	if err != nil {
		return err
	}
	pods := map[string]any{"metadata": map[string]any{"annotations": map[string]string{startedFor(d): word}}}
	err = k.ask(ctx, request{http.MethodPatch, at + mode(dry), oneMeta, merge, map[string]any{"spec": map[string]any{"template": pods}}}, nil)
	if isReason(err, "account.missing") {
		return &sdk.Error{Class: sdk.ClassNotFound, Reason: "workload.missing", Err: err}
	}
	return err
}

// rolled rolls a workload and waits.
func (k api) rolled(ctx context.Context, d stepData, name string) error {
	kind, at, err := named(d.Namespace, name)
	if err != nil {
		return err
	}
	if err := k.roll(ctx, d, name, d.Run, false); err != nil {
		return err
	}
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for {
		w, err := k.look(ctx, at)
		if err != nil {
			return rolling(err)
		}
		switch done, failed := w.done(kind); {
		case done:
			return nil
		case failed:
			return &sdk.Error{Class: sdk.ClassPolicy, Reason: "workload.failed", Err: errors.New("its new pods do not become ready in time")}
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return rolling(errors.New("not all of its pods are new yet"))
		}
	}
}

// rolling is for whatever comes between when a workload is being rolled: that was sent. Only
// that it is gone says what became of it.
func rolling(err error) error {
	e := &sdk.Error{Reason: "workload.rolling"}
	if errors.As(err, &e) && e.Reason == "workload.missing" {
		return err
	}
	return &sdk.Error{Class: sdk.ClassUnreachable, Reason: e.Reason, Err: err}
}
