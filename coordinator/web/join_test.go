package web

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// TestJoinNeedsSignIn: the link alone shows nothing of the machine.
func TestJoinNeedsSignIn(t *testing.T) {
	w := newWorld(t)
	w.api.ticket("t1")
	p := w.person()
	p.get("/join/t1").wantRedirect(t, "/login?next=%2Fjoin%2Ft1")
	p.post("/join/t1", "code", "B7KD-2MXR").wantRedirect(t, "/login?next=%2Fjoin%2Ft1")
	p.post("/join/t1/deny").wantRedirect(t, "/login?next=%2Fjoin%2Ft1")
	if w.api.called("Ticket") || w.api.called("Approve") || w.api.called("DenyTicket") {
		t.Errorf("somebody not signed in reached %v", w.api.calls)
	}
	p.get("/login?next=%2Fjoin%2Ft1").want(t, http.StatusOK, "A machine is waiting to be let in")
}

func TestJoinShowsWhatAsks(t *testing.T) {
	w := newWorld(t)
	w.api.ticket("t1")
	a := w.signedIn(memberLogin).get("/join/t1")
	a.want(t, http.StatusOK, "bob-thinkpad", "linux (Debian 12)", "203.0.113.7", "40 seconds ago", "device:89abcdef", "bob@example.com", "Approve", "Deny",
		"Somebody wants to add a machine as <strong>yours</strong>", "If you did not start this, deny.", "you are at <code>127.0.0.1</code>")
	if strings.Contains(a.body, "B7KD") {
		t.Error("the page shows the code")
	}
}

// TestJoinNeedsTheTypedCode is the scripted phish: a signed-in person who clicks everything enrols nothing without the code.
func TestJoinNeedsTheTypedCode(t *testing.T) {
	w := newWorld(t)
	w.api.ticket("t1")
	p := w.signedIn(memberLogin)
	before := len(w.api.nodes)
	p.get("/join/t1?code=B7KD-2MXR")
	p.post("/join/t1").want(t, http.StatusUnprocessableEntity, "The code has eight letters and digits")
	p.post("/join/t1?code=B7KD-2MXR").want(t, http.StatusUnprocessableEntity) // in the address, as a link could carry it
	if len(w.api.nodes) != before || w.api.called("Approve") {
		t.Error("a machine was let in without the code")
	}
}

func TestJoinWrongCodes(t *testing.T) {
	w := newWorld(t)
	tk := w.api.ticket("t1")
	p := w.signedIn(memberLogin)
	for _, typed := range []string{"", "short", "B7KD-2MXRR", "B7KD_2MX!", "ÄÄÄÄ-BBBB", "<script>"} {
		p.post("/join/t1", "code", typed).want(t, http.StatusUnprocessableEntity, "The code has eight letters and digits")
	}
	if tk.tries != 3 {
		t.Errorf("what could not be a code cost a try: %d left", tk.tries)
	}
	a := p.post("/join/t1", "code", "AAAA-BBBB")
	a.want(t, http.StatusUnprocessableEntity, "2 tries are left", `value="AAAA-BBBB"`, `aria-describedby="code-hint code-fault"`)
	p.post("/join/t1", "code", "AAAA-CCCC").want(t, http.StatusUnprocessableEntity, "1 tries are left")
	p.post("/join/t1", "code", "AAAA-DDDD").want(t, http.StatusGone, "Too many wrong codes", "picket up")
	p.post("/join/t1", "code", "B7KD-2MXR").want(t, http.StatusGone, "Too many wrong codes")
	if len(w.api.nodes) != 3 {
		t.Error("the right code let in a machine after too many wrong ones")
	}
}

func TestJoinCodeAsPeopleTypeIt(t *testing.T) {
	for typed, want := range map[string]string{
		"B7KD-2MXR": "B7KD-2MXR", "b7kd2mxr": "B7KD-2MXR", " b7kd 2mxr ": "B7KD-2MXR", "B7KD–2MXR": "B7KD-2MXR", "B 7 K D - 2 M X R": "B7KD-2MXR",
		"b7kd\u00a02mxr": "B7KD-2MXR", "b7kd_2mxr": "B7KD-2MXR", "": "", "B7KD-2MX": "", "B7KD-2MXRA": "", "B7KD\n2MXR": "", "В7KD-2MXR": "", // Cyrillic
	} {
		t.Run(typed, func(t *testing.T) {
			if got, ok := joinCode(typed); got != want || ok != (want != "") {
				t.Errorf("%q %v, want %q", got, ok, want)
			}
		})
	}
}

func TestJoinApproved(t *testing.T) {
	w := newWorld(t)
	w.api.ticket("t1")
	p := w.signedIn(memberLogin)
	p.post("/join/t1", "code", "b7kd 2mxr").want(t, http.StatusOK, "bob-thinkpad is in your network", "100.64.0.9", "fd7a:70ad::9", "The terminal on the machine goes on by itself")
	p.get("/join/t1").want(t, http.StatusGone, "approved already", "ask an administrator to remove it")
	p.post("/join/t1", "code", "B7KD-2MXR").want(t, http.StatusGone, "approved already")
}

func TestJoinDenied(t *testing.T) {
	w := newWorld(t)
	w.api.ticket("t1")
	p := w.signedIn(memberLogin)
	p.post("/join/t1/deny").want(t, http.StatusOK, "Nothing was added", "bob-thinkpad")
	p.get("/join/t1").want(t, http.StatusGone, "This request was denied")
	p.post("/join/t1", "code", "B7KD-2MXR").want(t, http.StatusGone, "This request was denied")
	p.post("/join/t1/deny").want(t, http.StatusGone, "This request was denied")
	if len(w.api.nodes) != 3 {
		t.Error("a denied machine was let in")
	}
}

func TestJoinOver(t *testing.T) {
	for state, text := range map[string]string{
		protocol.TicketApproved: "approved already", protocol.TicketDenied: "This request was denied", protocol.TicketExpired: "works for ten minutes",
		protocol.TicketSpoiled: "Too many wrong codes", "of a later version": "This request is over",
	} {
		t.Run(state, func(t *testing.T) {
			w := newWorld(t)
			w.api.ticket("t1").view.State = state
			p := w.signedIn(memberLogin)
			a := p.get("/join/t1")
			a.want(t, http.StatusGone, text)
			if strings.Contains(a.body, `name="code"`) {
				t.Error("the page still asks for the code")
			}
		})
	}
	newWorld(t).signedIn(memberLogin).get("/join/none").want(t, http.StatusNotFound, "run picket up again")
}

// TestHostileHostNames: what a machine calls itself is shown as text, without what reorders or hides its neighbours, and not for long.
func TestHostileHostNames(t *testing.T) {
	const end = "hostile-end"
	for name, c := range map[string]struct{ hostname, shows, never string }{
		"script":        {`<script>alert(1)</script>`, "&lt;script&gt;alert(1)&lt;/script&gt;", "<script"},
		"attribute":     {`" autofocus onfocus="alert(1)`, "&#34; autofocus onfocus=&#34;alert(1)", `" autofocus onfocus`},
		"entity":        {`&lt;b&gt;`, "&amp;lt;b&amp;gt;", "<bdi>&lt;b"},
		"newlines":      {"laptop\r\nOwner: root", "laptop\ufffd\ufffdOwner: root", "laptop\r"},
		"escape codes":  {"a\x1b[31mred\x07", "a\ufffd[31mred\ufffd", "\x1b"},
		"right to left": {"a\u202egnp.exe", "a\ufffdgnp.exe", "\u202e"},
		"zero width":    {"lap\u200btop\u2066", "lap\ufffdtop\ufffd", "\u200b"},
		"broken UTF-8":  {"lap\xfftop", "lap\ufffdtop", "\xff"},
		"300 letters":   {strings.Repeat("x", 300) + end, strings.Repeat("x", 64) + "…", end},
		"template":      {`{{.User}}`, "{{.User}}", "ada@example.com}"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tk := w.api.ticket("t1")
			tk.view.Hostname, tk.view.OS, tk.view.Device = c.hostname, c.hostname, c.hostname
			w.api.nodes[0].Hostname, w.api.nodes[0].OS, w.api.nodes[0].Version = c.hostname, c.hostname, c.hostname
			w.api.nodes[0].Bypass = &coordinator.Accusation{By: c.hostname, Flow: c.hostname, At: time.Now()}
			w.api.record("node "+c.hostname, "node.join", c.hostname, c.hostname)
			p := w.signedIn(adminLogin)
			for _, a := range []got{p.get("/join/t1"), p.get("/nodes/n1"), p.post("/join/t1/deny")} {
				a.want(t, http.StatusOK, c.shows)
				if strings.Contains(a.body, c.never) {
					t.Errorf("the page holds %q:\n%s", c.never, a.body)
				}
			}
			p.get("/nodes/n1").want(t, http.StatusOK, "Egress bypass")
			p.get("/nodes/n2").lacks(t, "Egress bypass")
			if name != "300 letters" { // the log shows longer texts
				if a := p.get("/audit"); strings.Contains(a.body, c.never) {
					t.Errorf("the log's page holds %q:\n%s", c.never, a.body)
				}
			}
		})
	}
}

func TestJoinFromTheSameAddress(t *testing.T) {
	w := newWorld(t)
	w.api.ticket("t1").view.From = netip.MustParseAddr("127.0.0.1")
	if a := w.signedIn(memberLogin).get("/join/t1"); strings.Contains(a.body, "you are at") || strings.Contains(a.body, "another address") {
		t.Errorf("the page warns of another address:\n%s", a.body)
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "web-1", "a\x00b", "\u202e", "\xff\xfe", strings.Repeat("é", 100), "\u2028"} {
		f.Add(s, 8)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = max(0, min(limit, 1000))
		got := clean(s, limit)
		if n := len([]rune(got)); n > limit+1 {
			t.Fatalf("%d runes, limit %d", n, limit)
		}
		if clean(got, limit+1) != got {
			t.Fatalf("%q is not clean", got)
		}
		if strings.ContainsAny(got, "\r\n\t\x00\x1b\u202e\u2066\u200b\u2028") {
			t.Fatalf("%q kept a control", got)
		}
	})
}
