package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	lua "github.com/yuin/gopher-lua"
	"golang.org/x/crypto/md4" //lint:ignore SA1019 NTLM is made of it (MS-NLMP 3.3.2)

	"github.com/rotunda-pam/rotunda/sdk"
)

// wsman is a host that speaks as much WinRM as MS-WSMV asks of one, and runs nothing: it
// repeats what it was to run, and its standard input.
type wsman struct {
	*httptest.Server
	t      *testing.T
	basic  bool
	fault  string // of WSMan, in answer to a command
	breaks string // "handshake": cuts it; "words": says a word with each 401; "receive": forgets who is logged in when output is asked for; "send": ends before it has read anything

	mu     sync.Mutex
	known  map[string]string // connection → "challenged" or "in"
	shells map[string]*wsProgram
	told   []string // actions
	exit   string
}

type wsProgram struct {
	line  string
	stdin []byte
	ended bool // standard input
	asked int
}

const wsName, wsSecret = "Ops", "pässw0rd-of-ops"

func newWSMan(t *testing.T) *wsman {
	w := &wsman{t: t, exit: "4294967295", known: map[string]string{}, shells: map[string]*wsProgram{}}
	w.Server = httptest.NewTLSServer(w)
	t.Cleanup(w.Close)
	return w
}

// bench is a script that reaches it, pinned.
func (w *wsman) bench(code string) (*bench, error) {
	b := newBench(w.t, []string{"winrm", "secret", "text"}, "needs = [\"secret\"]\nhosts = [\"resource\"]", code)
	at := w.Listener.Addr().String()
	pin := sha256.Sum256(w.Certificate().RawSubjectPublicKeyInfo)
	b.allow, b.host.Pins = []string{at}, map[string][]byte{at: pin[:]}
	_, err := b.run(func(s *state, job *lua.LTable) {
		job.RawSetString("secret", s.secret(secret{Secret: sdk.NewSecret([]byte(wsSecret))}))
	}, sdk.Resource{Address: at, TLS: sdk.TLS{Mode: sdk.TLSPin}})
	return b, err
}

func (w *wsman) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	if w.breaks == "receive" && bytes.Contains(body, []byte(wsReceive)) {
		w.known, w.basic = map[string]string{}, false
		w.told = append(w.told, "Receive")
		rw.Header().Add("WWW-Authenticate", "Negotiate")
		rw.WriteHeader(http.StatusUnauthorized)
		return
	}
	if !w.in(rw, r) {
		if w.breaks == "words" {
			_, _ = io.WriteString(rw, strings.Repeat("who is it? ", 1000))
		}
		return
	}
	var m struct {
		Action   string `xml:"Header>Action"`
		Resource string `xml:"Header>ResourceURI"`
		Shell    string `xml:"Header>SelectorSet>Selector"`
		Options  []struct {
			Name string `xml:"Name,attr"`
			Text string `xml:",chardata"`
		} `xml:"Header>OptionSet>Option"`
		Program string `xml:"Body>CommandLine>Command"`
		Args    string `xml:"Body>CommandLine>Arguments"`
		Send    struct {
			Command string `xml:"CommandId,attr"`
			End     bool   `xml:"End,attr"`
			Text    string `xml:",chardata"`
		} `xml:"Body>Send>Stream"`
		Code string `xml:"Body>Signal>Code"`
	}
	if err := xml.Unmarshal(body, &m); err != nil || r.URL.Path != "/wsman" || m.Resource != wsShell+"/cmd" || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/soap+xml") {
		w.t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
	_, action, _ := strings.Cut(strings.TrimPrefix(m.Action, "http://"), "/")
	action = action[strings.LastIndex(action, "/")+1:]
	w.told = append(w.told, action)
	answer := func(text string) {
		fmt.Fprintf(rw, `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:rsp="%s"><s:Header/><s:Body>%s</s:Body></s:Envelope>`, wsShell, text)
	}
	fault := func(code, text string) {
		rw.WriteHeader(http.StatusInternalServerError)
		answer(`<s:Fault><s:Reason><s:Text>` + text + `</s:Text></s:Reason><s:Detail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="` + code + `"><f:Message>` + text + `</f:Message></f:WSManFault></s:Detail></s:Fault>`)
	}
	p := w.shells[m.Shell]
	if (p == nil) != (action == "Create") {
		w.t.Errorf("%s in the shell %q", action, m.Shell)
		return
	}
	switch action {
	case "Create":
		id := fmt.Sprintf("shell-%d", len(w.shells))
		w.shells[id] = &wsProgram{}
		answer(`<x:ResourceCreated xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><a:ReferenceParameters xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"><w:SelectorSet><w:Selector Name="ShellId">` + id + `</w:Selector></w:SelectorSet></a:ReferenceParameters></x:ResourceCreated>`)
	case "Command":
		if w.fault != "" {
			fault(w.fault, "it is not to be")
			return
		}
		p.line = m.Program + "|" + m.Args
		options := map[string]string{}
		for _, o := range m.Options {
			options[o.Name] = o.Text
		}
		p.ended = options["WINRS_CONSOLEMODE_STDIN"] == "TRUE"
		if options["WINRS_SKIP_CMD_SHELL"] != "TRUE" {
			w.t.Error("a shell would read the command line")
		}
		answer(`<rsp:CommandResponse><rsp:CommandId>command-1</rsp:CommandId></rsp:CommandResponse>`)
	case "Send":
		if w.breaks == "send" {
			p.ended = true
			fault("109", "the pipe has been ended")
			return
		}
		b, err := base64.StdEncoding.DecodeString(m.Send.Text)
		if err != nil || m.Send.Command != "command-1" || p.ended {
			w.t.Errorf("%+v: %v", m.Send, err)
		}
		p.stdin, p.ended = append(p.stdin, b...), m.Send.End
		answer(`<rsp:SendResponse/>`)
	case "Receive":
		stream := func(name string, b []byte) string {
			return `<rsp:Stream Name="` + name + `" CommandId="command-1">` + base64.StdEncoding.EncodeToString(b) + `</rsp:Stream>`
		}
		switch p.asked++; {
		case !p.ended:
			w.t.Error("output is asked for before standard input has ended")
		case p.asked == 1:
			fault(wsTimedOut, "nothing yet")
		case p.asked == 2:
			answer(`<rsp:ReceiveResponse>` + stream("stdout", []byte(p.line+"\n")) + stream("stderr", []byte("a word")) + `<rsp:CommandState CommandId="command-1" State="` + wsShell + `/CommandState/Running"/></rsp:ReceiveResponse>`)
		default:
			answer(`<rsp:ReceiveResponse>` + stream("stdout", p.stdin) + `<rsp:CommandState CommandId="command-1" State="` + wsDone + `"><rsp:ExitCode>` + w.exit + `</rsp:ExitCode></rsp:CommandState></rsp:ReceiveResponse>`)
		}
	case "Signal":
		if m.Code != wsTerminate {
			w.t.Errorf("signal %s", m.Code)
		}
		answer(`<rsp:SignalResponse/>`)
	case "Delete":
		delete(w.shells, m.Shell)
		answer("")
	default:
		w.t.Errorf("action %s", m.Action)
	}
}

// in logs a connection in: by Basic, or by NTLM as MS-NLMP says it, where each connection is
// challenged.
func (w *wsman) in(rw http.ResponseWriter, r *http.Request) bool {
	if w.basic {
		name, secret, _ := r.BasicAuth()
		if name == wsName && secret == wsSecret {
			return true
		}
		rw.Header().Set("WWW-Authenticate", `Basic realm="WSMAN"`)
		rw.WriteHeader(http.StatusUnauthorized)
		return false
	}
	if w.known[r.RemoteAddr] == "in" {
		return true
	}
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	m, _ := base64.StdEncoding.DecodeString(text)
	if (scheme == "Negotiate" || scheme == "NTLM") && len(m) >= 12 && bytes.HasPrefix(m, []byte("NTLMSSP\x00")) {
		switch m[8] {
		case 1:
			if w.breaks == "handshake" {
				panic(http.ErrAbortHandler) // cuts the connection
			}
			w.known[r.RemoteAddr] = "challenged"
			if w.breaks == "hangs up" {
				rw.Header().Set("Connection", "close")
			}
			rw.Header().Set("WWW-Authenticate", scheme+" "+base64.StdEncoding.EncodeToString(ntlmChallenge()))
			rw.WriteHeader(http.StatusUnauthorized)
			return false
		case 3:
			if w.known[r.RemoteAddr] == "challenged" && ntlmProven(m) {
				w.known[r.RemoteAddr] = "in"
				return true
			}
		}
	}
	rw.Header().Add("WWW-Authenticate", "Negotiate")
	rw.Header().Add("WWW-Authenticate", "NTLM")
	rw.WriteHeader(http.StatusUnauthorized)
	return false
}

var ntlmNonce = []byte("nonce-of")

func utf16le(s string) (out []byte) {
	for _, u := range utf16.Encode([]rune(s)) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

// ntlmChallenge is a CHALLENGE_MESSAGE (MS-NLMP 2.2.1.2).
func ntlmChallenge() []byte {
	le := binary.LittleEndian
	name := utf16le("WIN")
	var info []byte
	for id, v := range [][]byte{1: name, 2: name} {
		if v != nil {
			info = append(le.AppendUint16(le.AppendUint16(info, uint16(id)), uint16(len(v))), v...)
		}
	}
	info = append(info, 0, 0, 0, 0)
	const head = 56
	field := func(b []byte, n, at int) []byte {
		return le.AppendUint32(le.AppendUint16(le.AppendUint16(b, uint16(n)), uint16(n)), uint32(at))
	}
	m := append([]byte("NTLMSSP\x00"), 2, 0, 0, 0)
	m = field(m, len(name), head)
	m = le.AppendUint32(m, 0xa2898205) // Unicode, NTLM, extended session security, target info, 128 and 56 bits
	m = append(append(m, ntlmNonce...), make([]byte, 8)...)
	m = field(m, len(info), head+len(name))
	m = append(m, 10, 0, 0x61, 0x4a, 0, 0, 0, 15)
	return slices.Concat(m, name, info)
}

// ntlmProven checks the NTLMv2 response of an AUTHENTICATE_MESSAGE (MS-NLMP 3.3.2).
func ntlmProven(m []byte) bool {
	field := func(at int) []byte {
		if len(m) < at+8 {
			return nil
		}
		n, from := int(binary.LittleEndian.Uint16(m[at:])), int(binary.LittleEndian.Uint32(m[at+4:]))
		if from < 0 || n < 0 || from+n > len(m) {
			return nil
		}
		return m[from : from+n]
	}
	response, domain, user := field(20), field(28), field(36)
	if len(response) < 24 || !bytes.EqualFold(user, utf16le(wsName)) {
		return false
	}
	mac := func(key []byte, parts ...[]byte) []byte {
		h := hmac.New(md5.New, key)
		h.Write(slices.Concat(parts...))
		return h.Sum(nil)
	}
	h := md4.New()
	h.Write(utf16le(wsSecret))
	key := mac(h.Sum(nil), utf16le(strings.ToUpper(wsName)), domain)
	return hmac.Equal(response[:16], mac(key, ntlmNonce, response[16:]))
}

func TestWinRM(t *testing.T) {
	const login = `login = "Ops", secret = job.secret`
	for name, c := range map[string]struct {
		basic  bool
		fault  string
		breaks string
		code   string
		told   string
	}{
		"a program, by NTLM": {code: `local r = assert(winrm.run{` + login + `, argv = {"sc.exe", "stop", "My Service", [[a\"b]]}})
			assert(r.status == -1 and r.stderr == "a word" and not r.truncated)
			assert(r.stdout == [[sc.exe|stop "My Service" "a\\\"b"]] .. "\n", r.stdout)`, told: "Create Command Receive Receive Receive Signal Delete"},
		"with a secret on its input": {code: `local r = assert(winrm.run{` + login + `, argv = {"setpw.exe"}, stdin = job.secret, secret_output = true})
			assert(secret.equal(r.stdout, text.concat("setpw.exe|\n", job.secret)))`, told: "Create Command Send Receive Receive Receive Signal Delete"},
		"with a long input": {code: `local long = ("0123456789abcdef"):rep(10000)
			local r = assert(winrm.run{` + login + `, argv = {"sink.exe"}, stdin = long}) assert(r.stdout == "sink.exe|\n" .. long)`, told: "Create Command Send Send Send Receive Receive Receive Signal Delete"},
		"a program that reads nothing":                              {breaks: "send", code: `local r = assert(winrm.run{` + login + `, argv = {"x"}, stdin = "y"}) assert(r.status == -1)`, told: "Create Command Send Receive Receive Receive Signal Delete"},
		"a host of many words":                                      {breaks: "words", code: `assert(winrm.run{` + login + `, argv = {"x"}})`, told: "Create Command Receive Receive Receive Signal Delete"},
		"a login that breaks off says nothing of the secret":        {breaks: "handshake", code: `local r, err = winrm.run{` + login + `, argv = {"x"}} assert(not r and err.class == "unreachable" and err.reason == "winrm", tostring(err))`},
		"a challenge on a connection that ends says nothing either": {breaks: "hangs up", code: `local r, err = winrm.run{` + login + `, argv = {"x"}} assert(not r and err.class == "unreachable" and err.reason == "winrm", tostring(err))`},
		"a login that is forgotten while the program runs":          {breaks: "receive", code: `local r, err = winrm.run{` + login + `, argv = {"x"}} assert(not r and not err.not_sent, tostring(err))`, told: "Create Command Receive Receive Signal Delete"},
		"a program with a blank in its name":                        {code: `local r = assert(winrm.run{` + login + `, argv = {[[C:\Program Files\x.exe]], "a"}}) assert(r.stdout == [["C:\Program Files\x.exe"|a]] .. "\n", r.stdout)`, told: "Create Command Receive Receive Receive Signal Delete"},
		"what XML cannot hold":                                      {code: `local ok, err = pcall(winrm.run, {` + login + `, argv = {"x", "a\1b"}}) assert(not ok and tostring(err):find("XML cannot hold"))`},
		"PowerShell": {code: `local r = assert(winrm.powershell{` + login + `, script = "Restart-Service 'x'"})
			assert(r.stdout:match("^powershell.exe|%-NoProfile %-NonInteractive %-OutputFormat Text %-EncodedCommand [A-Za-z0-9+/=]+\n$"), r.stdout)`, told: "Create Command Receive Receive Receive Signal Delete"},
		"by Basic":             {basic: true, code: `assert(winrm.run{` + login + `, auth = "basic", argv = {"x"}})`, told: "Create Command Receive Receive Receive Signal Delete"},
		"a wrong secret":       {code: `local r, err = winrm.run{login = "Ops", secret = "wrong", argv = {"x"}} assert(not r and err.class == "auth" and err.reason == "bad_secret" and err.not_sent, tostring(err))`},
		"wrong by Basic":       {basic: true, code: `local r, err = winrm.run{login = "Ops", secret = "wrong", auth = "basic", argv = {"x"}} assert(not r and err.reason == "bad_secret")`},
		"no NTLM":              {basic: true, code: `local r, err = winrm.run{` + login + `, argv = {"x"}} assert(not r and err.class == "unsupported" and err.reason == "auth.method", tostring(err))`},
		"no Basic":             {code: `local r, err = winrm.run{` + login + `, auth = "basic", argv = {"x"}} assert(not r and err.reason == "auth.method", tostring(err))`},
		"not known whether":    {fault: "995", code: `local r, err = winrm.run{` + login + `, argv = {"x"}} assert(not r and err.reason == "winrm.995" and not err.not_sent)`, told: "Create Command Delete"},
		"refused":              {fault: "5", code: `local r, err = winrm.run{` + login + `, argv = {"x"}} assert(not r and err.class == "permission" and err.reason == "winrm.5" and err.not_sent and err.text == "it is not to be")`, told: "Create Command Delete"},
		"a secret among words": {code: `local ok, err = pcall(winrm.run, {` + login + `, argv = {"x", job.secret}}) assert(not ok and tostring(err):find("give it as stdin"))`},
		"a secret in a script": {code: `local ok, err = pcall(winrm.powershell, {` + login + `, script = job.secret}) assert(not ok and tostring(err):find("got a secret"))`},
		"an option too many":   {code: `local ok, err = pcall(winrm.run, {` + login + `, script = "x"}) assert(not ok and tostring(err):find("no option script"))`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWSMan(t)
			w.basic, w.fault, w.breaks = c.basic, c.fault, c.breaks
			if _, err := w.bench(c.code); err != nil {
				t.Error(err)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if got := strings.Join(w.told, " "); got != c.told || len(w.shells) > 0 {
				t.Errorf("it was told %q, and has %d shells; want %q", got, len(w.shells), c.told)
			}
		})
	}
}

// In clear nothing is spoken: not even dialled.
func TestWinRMInClear(t *testing.T) {
	b := newBench(t, []string{"winrm"}, "hosts = [\"resource\"]", `local r, err = winrm.run{login = "a", secret = "b", argv = {"x"}} assert(not r and err.reason == "winrm.clear" and err.not_sent)`)
	if _, err := b.run(nil, sdk.Resource{Address: "win.example:5985", TLS: sdk.TLS{Mode: sdk.TLSOff}}); err != nil || len(b.reached) > 0 {
		t.Errorf("%v, and it dialled %v", err, b.reached)
	}
}

// How Windows programs read their arguments.
func TestWindowsLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"a", "b c", ""}, `a "b c" ""`},
		{[]string{`C:\dir\`, `C:\my dir\`}, `C:\dir\ "C:\my dir\\"`},
		{[]string{`say "hi"`, `\"`, `\\"`}, `"say \"hi\"" "\\\"" "\\\\\""`},
		{[]string{"&", "%PATH%", "^"}, `& %PATH% ^`}, // of cmd.exe, which is not asked
	} {
		if got := windowsLine(c.args); got != c.want {
			t.Errorf("%q is %s, want %s", c.args, got, c.want)
		}
	}
}
