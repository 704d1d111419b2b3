package sdk

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pluginv1 "github.com/rotunda-pam/rotunda/proto/rotunda/plugin/v1"
	"github.com/rotunda-pam/rotunda/sdk/scrub"
)

// What an error says of itself arrives whatever its text is, and the text is cut.
func TestErrorCrosses(t *testing.T) {
	var secrets scrub.Set
	t.Cleanup(secrets.Add([]byte("hunter2hunter2")))
	for name, text := range map[string]string{
		"short":                        "no",
		"long":                         strings.Repeat("a", 3*maxErrorText),
		"long, two bytes a character":  "x" + strings.Repeat("é", maxErrorText),
		"long, four bytes a character": "x" + strings.Repeat("🔑", maxErrorText),
		"not UTF-8":                    strings.Repeat("\xff\xc3a", maxErrorText),
		"a secret where it is cut":     strings.Repeat("a", maxErrorText-5) + "hunter2hunter2",
	} {
		t.Run(name, func(t *testing.T) {
			err := toStatus(t.Context(), &Error{Class: ClassPolicy, Reason: "policy.history", NotSent: true, Err: errors.New(text)}, &secrets)
			got := status.Convert(err).Proto()
			b, err := proto.Marshal(got)
			if err != nil {
				t.Fatalf("the error cannot be sent: %v", err)
			}
			if err := proto.Unmarshal(b, got); err != nil {
				t.Fatal(err)
			}
			d, _ := status.FromProto(got).Details()[0].(*pluginv1.ErrorDetail)
			if d.GetClass() != string(ClassPolicy) || d.GetReason() != "policy.history" || !d.GetNotSent() {
				t.Errorf("of the error arrived %v", d)
			}
			if len(got.Message) > maxErrorText || !utf8.ValidString(got.Message) || strings.Contains(got.Message, "hunt") || got.Message == "" {
				t.Errorf("its text is %d bytes: %q", len(got.Message), got.Message)
			}
		})
	}
}
