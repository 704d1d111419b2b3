package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/Azure/go-ntlmssp"

	"github.com/rotunda-pam/rotunda/sdk"
)

// What is spoken with Windows: SOAP over HTTPS, as MS-WSMV says it (the shell of WinRS). One
// shell is made for one program, and deleted after it.

// The actions and names of WS-Management (DSP0226) and MS-WSMV.
const (
	wsCreate  = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Create"
	wsDelete  = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Delete"
	wsShell   = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
	wsCommand = wsShell + "/Command"
	wsSend    = wsShell + "/Send"
	wsReceive = wsShell + "/Receive"
	wsSignal  = wsShell + "/Signal"

	wsTerminate = wsShell + "/signal/terminate"
	wsDone      = wsShell + "/CommandState/Done"

	wsTimedOut = "2150858793" // ERROR_WSMAN_OPERATION_TIMEDOUT: the program has said nothing yet
	wsDenied   = "5"          // ERROR_ACCESS_DENIED

	wsEnvelope = 150 << 10 // bytes, the least that every server takes
	wsAnswer   = 1 << 20   // bytes that are read of an answer
	wsRefusal  = 64 << 10  // likewise, of one that asks for a login

	wsPause = 100 * time.Millisecond // before output is asked for again that is not there yet
)

// wsRefusals are Windows' codes of what was not begun: no such file, no such path, access
// denied, a wrong parameter. Any other may come after the program was.
var wsRefusals = []string{"2", "3", wsDenied, "87"}

// wsUnread are those of a pipe that nobody reads: broken, or being closed.
var wsUnread = []string{"winrm.109", "winrm.232"}

// windows is a connection to a host, logged in.
type windows struct {
	client *http.Client
	proof  *proof
	close  func()
	url    string
	basic  bool
	name   string
	secret sdk.Secret
}

// newWindows makes it; nothing is dialled yet. NTLM logs a connection in, so there is one.
func newWindows(h sdk.Host, at sdk.Resource, name string, secret sdk.Secret, basic bool) (*windows, *sdk.Error) {
	secure, err := sdk.TLSConfig(h, at)
	if err != nil {
		return nil, asError(err, sdk.ClassInvalid, "address")
	}
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return h.Dialer.DialContext(ctx, network, at.Address)
		},
		TLSClientConfig: secure, DisableCompression: true, MaxConnsPerHost: 1, MaxResponseHeaderBytes: maxHeaders,
	}
	w := &windows{proof: &proof{under: t}, close: t.CloseIdleConnections, basic: basic, name: name, secret: secret}
	var rt http.RoundTripper = ntlmssp.Negotiator{RoundTripper: w.proof}
	if basic {
		rt = w.proof
	}
	w.client = &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	host := at.Address
	if at.TLS.ServerName != "" {
		_, port, _ := net.SplitHostPort(at.Address)
		host = net.JoinHostPort(at.TLS.ServerName, port)
	}
	w.url = (&url.URL{Scheme: "https", Host: host, Path: "/wsman"}).String()
	return w, nil
}

// proof sees what becomes of a login. Who logs in by NTLM asks first without one, and takes
// that answer, a 401, for the end where the login breaks off: then the secret was never judged.
type proof struct {
	under  http.RoundTripper
	given  bool // a request with the proof of the secret was made
	judged bool // and answered: the host does not take it

	challenged net.Conn // by NTLM: the proof counts on this connection alone
}

func (p *proof) RoundTrip(r *http.Request) (*http.Response, error) {
	gives, basic := proves(r.Header.Get("Authorization"))
	p.given = p.given || gives
	var on net.Conn
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { on = got.Conn }}
	resp, err := p.under.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	p.judged = p.judged || gives && (basic || on == p.challenged)
	p.challenged = on
	// There is one connection: it is not free for the next request before this answer is read.
	text, err := io.ReadAll(io.LimitReader(resp.Body, wsRefusal+1))
	_ = resp.Body.Close()
	if err == nil && len(text) > wsRefusal {
		err = errors.New("an answer that asks for a login has more than 64 KiB")
	}
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(text))
	return resp, nil
}

// proves says whether a header logs in: of NTLM's three messages the last does.
func proves(authorization string) (gives, basic bool) {
	scheme, text, _ := strings.Cut(authorization, " ")
	if strings.EqualFold(scheme, "Basic") {
		return true, true
	}
	m, err := base64.StdEncoding.DecodeString(text)
	return err == nil && len(m) > 8 && bytes.HasPrefix(m, []byte("NTLMSSP\x00")) && m[8] == 3, false
}

// windowsProgram is what is run.
type windowsProgram struct {
	program, arguments string
	stdin              []byte // nil: none
}

// windowsExit is how it ended.
type windowsExit struct {
	status         int
	stdout, stderr kept
}

// run runs a program and waits for its end. A failure has NotSent where it was not started.
func (w *windows) run(ctx context.Context, p windowsProgram, limit int) (*windowsExit, *sdk.Error) {
	answer, failed := w.ask(ctx, "", wsCreate, wsOptions("WINRS_NOPROFILE", "TRUE", "WINRS_CODEPAGE", "65001"),
		`<rsp:Shell><rsp:InputStreams>stdin</rsp:InputStreams><rsp:OutputStreams>stdout stderr</rsp:OutputStreams><rsp:IdleTimeOut>PT300.000S</rsp:IdleTimeOut></rsp:Shell>`)
	if failed != nil {
		failed.NotSent = true
		return nil, failed
	}
	shell := answer.shell()
	if shell == "" {
		return nil, noWindows("it named no shell", true)
	}
	// The shell goes with the run, also where its time is over.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hangUp)
		defer cancel()
		_, _ = w.ask(ctx, shell, wsDelete, "", "")
	}()
	console := "TRUE"
	if p.stdin != nil {
		console = "FALSE"
	}
	answer, failed = w.ask(ctx, shell, wsCommand, wsOptions("WINRS_CONSOLEMODE_STDIN", console, "WINRS_SKIP_CMD_SHELL", "TRUE"),
		"<rsp:CommandLine><rsp:Command>"+inXML(p.program)+"</rsp:Command><rsp:Arguments>"+inXML(p.arguments)+"</rsp:Arguments></rsp:CommandLine>")
	if failed != nil {
		failed.NotSent = failed.NotSent || slices.Contains(wsRefusals, strings.TrimPrefix(failed.Reason, "winrm."))
		return nil, failed
	}
	command := answer.Body.Command.ID
	if command == "" {
		return nil, noWindows("it named no command", false)
	}
	// From here on the program runs, whatever becomes of the rest.
	out, failed := w.follow(ctx, shell, command, p.stdin, limit)
	// The host keeps what it has of the program until this.
	_, _ = w.ask(ctx, shell, wsSignal, "", `<rsp:Signal CommandId="`+inXML(command)+`"><rsp:Code>`+wsTerminate+`</rsp:Code></rsp:Signal>`)
	if failed != nil {
		failed.NotSent = false
		return nil, failed
	}
	return out, nil
}

// follow hands a program its standard input and reads what it prints, until it has ended.
func (w *windows) follow(ctx context.Context, shell, command string, stdin []byte, limit int) (*windowsExit, *sdk.Error) {
	for rest := stdin; rest != nil; {
		part := rest[:min(len(rest), wsEnvelope/2)]
		rest = rest[len(part):]
		end := ""
		if len(rest) == 0 {
			end, rest = ` End="true"`, nil
		}
		_, failed := w.ask(ctx, shell, wsSend, "", `<rsp:Send><rsp:Stream Name="stdin" CommandId="`+inXML(command)+`"`+end+`>`+base64.StdEncoding.EncodeToString(part)+`</rsp:Stream></rsp:Send>`)
		if failed != nil && slices.Contains(wsUnread, failed.Reason) { // the program has ended, or reads no more
			break
		}
		if failed != nil {
			return nil, failed
		}
	}
	out := &windowsExit{stdout: kept{left: limit}, stderr: kept{left: limit}}
	return out, w.receive(ctx, shell, command, out)
}

// receive reads what the program prints, until it has ended.
func (w *windows) receive(ctx context.Context, shell, command string, out *windowsExit) *sdk.Error {
	for {
		answer, failed := w.ask(ctx, shell, wsReceive, "", `<rsp:Receive><rsp:DesiredStream CommandId="`+inXML(command)+`">stdout stderr</rsp:DesiredStream></rsp:Receive>`)
		if failed != nil && failed.Reason == "winrm."+wsTimedOut {
			select {
			case <-time.After(wsPause):
			case <-ctx.Done(): // the next says so
			}
			continue
		}
		if failed != nil {
			return failed
		}
		for _, s := range answer.Body.Receive.Streams {
			b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s.Text))
			if err != nil {
				return noWindows("its output is no base64", false)
			}
			to := &out.stdout
			if s.Name == "stderr" {
				to = &out.stderr
			}
			_, _ = to.Write(b)
		}
		if state := answer.Body.Receive.State; state.State == wsDone {
			if state.Exit == nil {
				return noWindows("it ended without a code", false)
			}
			out.status = int(int32(*state.Exit)) // 32 bits; on the wire they are unsigned
			return nil
		}
	}
}

// windowsAnswer is what of an answer's envelope is looked at.
type windowsAnswer struct {
	Body struct {
		Shell   string `xml:"http://schemas.microsoft.com/wbem/wsman/1/windows/shell Shell>ShellId"`
		Created struct {
			Selectors []struct {
				Name string `xml:"Name,attr"`
				Text string `xml:",chardata"`
			} `xml:"ReferenceParameters>SelectorSet>Selector"`
		} `xml:"http://schemas.xmlsoap.org/ws/2004/09/transfer ResourceCreated"`
		Command struct {
			ID string `xml:"CommandId"`
		} `xml:"CommandResponse"`
		Receive struct {
			Streams []struct {
				Name string `xml:"Name,attr"`
				Text string `xml:",chardata"`
			} `xml:"Stream"`
			State struct {
				State string `xml:"State,attr"`
				Exit  *int64 `xml:"ExitCode"`
			} `xml:"CommandState"`
		} `xml:"ReceiveResponse"`
		Fault *struct {
			Reason string `xml:"Reason>Text"`
			WSMan  struct {
				Code    string `xml:"Code,attr"`
				Message string `xml:"Message"`
			} `xml:"Detail>WSManFault"`
		} `xml:"http://www.w3.org/2003/05/soap-envelope Fault"`
	} `xml:"http://www.w3.org/2003/05/soap-envelope Body"`
}

func (a *windowsAnswer) shell() string {
	for _, s := range a.Body.Created.Selectors {
		if s.Name == "ShellId" {
			return strings.TrimSpace(s.Text)
		}
	}
	return strings.TrimSpace(a.Body.Shell)
}

// ask sends one message and reads the answer.
func (w *windows) ask(ctx context.Context, shell, action, options, body string) (*windowsAnswer, *sdk.Error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(w.envelope(shell, action, options, body)))
	if err != nil {
		return nil, &sdk.Error{Class: sdk.ClassInvalid, Reason: "winrm.url", NotSent: true, Err: errors.New("the address makes no URL")}
	}
	req.Header.Set("Content-Type", "application/soap+xml;charset=UTF-8")
	req.SetBasicAuth(w.name, w.secret.ExposeString())
	w.proof.given, w.proof.judged = false, false
	resp, err := w.client.Do(req)
	if err != nil {
		var known *sdk.Error
		e := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "winrm", Err: errors.New("the host gave no answer")}
		switch {
		case ctx.Err() != nil:
			e.Reason = "deadline"
		case errors.As(err, &known): // the dialer's word, or that of the TLS proof
			e.Class, e.Reason, e.NotSent, e.Err = known.Class, known.Reason, known.NotSent && !w.proof.given, known.Err
		}
		return nil, e
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, wsAnswer+1))
	switch {
	case err != nil || len(text) > wsAnswer:
		return nil, noWindows("its answer is cut off, or has more than a mebibyte", false)
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, w.refused(ctx, resp.Header.Values("WWW-Authenticate"))
	}
	var a windowsAnswer
	if err := xml.Unmarshal(text, &a); err != nil {
		return nil, noWindows(fmt.Sprintf("its answer, with status %d, is no SOAP", resp.StatusCode), false)
	}
	if f := a.Body.Fault; f != nil {
		e := &sdk.Error{Class: sdk.ClassConflict, Reason: "winrm.fault", Err: errors.New(strings.TrimSpace(orElse(f.WSMan.Message, f.Reason)))}
		if code := f.WSMan.Code; code != "" && len(code) <= 10 && strings.Trim(code, "0123456789") == "" {
			e.Reason = "winrm." + code
			if code == wsDenied {
				e.Class = sdk.ClassPermission
			}
		}
		return nil, e
	}
	if resp.StatusCode != http.StatusOK {
		return nil, noWindows(fmt.Sprintf("it answers with status %d", resp.StatusCode), false)
	}
	return &a, nil
}

// refused is an answer that asks for a login: of the secret the host has judged only where it
// was given it.
func (w *windows) refused(ctx context.Context, offers []string) *sdk.Error {
	all := strings.ToLower(strings.Join(offers, " "))
	offered := strings.Contains(all, "negotiate") || strings.Contains(all, "ntlm")
	if w.basic {
		offered = strings.Contains(all, "basic")
	}
	switch {
	case w.proof.judged && offered:
		return &sdk.Error{Class: sdk.ClassAuth, Reason: "bad_secret", NotSent: true, Err: errors.New("the host refused the login")}
	case !offered:
		return &sdk.Error{Class: sdk.ClassUnsupported, Reason: "auth.method", NotSent: true, Err: fmt.Errorf("the host lets nobody in in this way; it offers: %s", orElse(strings.Join(offers, ", "), "nothing"))}
	case ctx.Err() != nil:
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "deadline", NotSent: !w.proof.given, Err: errors.New("the login came to no end")}
	}
	return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "winrm", NotSent: !w.proof.given, Err: errors.New("the login broke off before the host had judged the secret")}
}

func noWindows(why string, notSent bool) *sdk.Error {
	return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "winrm", NotSent: notSent, Err: errors.New("the host does not speak WinRM as it should: " + why)}
}

func (w *windows) envelope(shell, action, options, body string) []byte {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand, Go 1.24)
	selector := ""
	if shell != "" {
		selector = `<w:SelectorSet><w:Selector Name="ShellId">` + inXML(shell) + `</w:Selector></w:SelectorSet>`
	}
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="utf-8"?>`+
		`<env:Envelope xmlns:env="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" `+
		`xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd" xmlns:rsp="%s">`+
		`<env:Header><a:To>%s</a:To><w:ResourceURI env:mustUnderstand="true">%s/cmd</w:ResourceURI>`+
		`<a:ReplyTo><a:Address env:mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>`+
		`<a:Action env:mustUnderstand="true">%s</a:Action><w:MaxEnvelopeSize env:mustUnderstand="true">%d</w:MaxEnvelopeSize>`+
		`<a:MessageID>uuid:%X-%X-%X-%X-%X</a:MessageID><w:Locale xml:lang="en-US" env:mustUnderstand="false"/><p:DataLocale xml:lang="en-US" env:mustUnderstand="false"/>`+
		`<w:OperationTimeout>PT20.000S</w:OperationTimeout>%s%s</env:Header><env:Body>%s</env:Body></env:Envelope>`,
		wsShell, inXML(w.url), wsShell, action, wsEnvelope, id[:4], id[4:6], id[6:8], id[8:10], id[10:], options, selector, body)
}

// wsOptions are options of a message: names with their values.
func wsOptions(pairs ...string) string {
	var b strings.Builder
	b.WriteString("<w:OptionSet>")
	for n := 0; n < len(pairs); n += 2 {
		b.WriteString(`<w:Option Name="` + pairs[n] + `">` + pairs[n+1] + `</w:Option>`)
	}
	b.WriteString("</w:OptionSet>")
	return b.String()
}

func inXML(text string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(text)) // into memory
	return b.String()
}

// xmlHolds says whether XML can hold a text as it is (XML 1.0, 2.2).
func xmlHolds(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff
	})
}

// windowsLine writes arguments as the rules of CommandLineToArgvW read them.
func windowsLine(args []string) string {
	var out []string
	for _, a := range args {
		if a != "" && !strings.ContainsAny(a, " \t\n\v\"") {
			out = append(out, a)
			continue
		}
		var b strings.Builder
		slashes := 0
		for _, c := range []byte(a) {
			switch c {
			case '\\':
				slashes++
				continue
			case '"': // those before a quote count twice, and the quote wants one of its own
				b.WriteString(strings.Repeat(`\`, 2*slashes+1))
			default:
				b.WriteString(strings.Repeat(`\`, slashes))
			}
			slashes = 0
			b.WriteByte(c)
		}
		b.WriteString(strings.Repeat(`\`, 2*slashes))
		out = append(out, `"`+b.String()+`"`)
	}
	return strings.Join(out, " ")
}
