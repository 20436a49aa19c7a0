package web

import (
	"bytes"
	"image/png"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

const setupPass = "seven grey herons stand"

// invited is a world with a link for carol, and one for the first administrator.
func invited(t *testing.T) *world {
	w := newWorld(t)
	w.api.invitations["carol"] = coordinator.Invitation{Login: "carol@example.com", Role: coordinator.RoleMember, Expires: time.Now().Add(time.Hour)}
	w.api.invitations["first"] = coordinator.Invitation{Role: coordinator.RoleAdmin, Expires: time.Now().Add(time.Hour)}
	return w
}

var secretOnPage = regexp.MustCompile(`<code id="secret"[^>]*>([A-Z2-7 ]+)</code>`)

func (a got) secret(t *testing.T) string {
	t.Helper()
	m := secretOnPage.FindStringSubmatch(a.body)
	if m == nil {
		t.Fatalf("no secret on the page:\n%s", a.body)
	}
	return strings.ReplaceAll(m[1], " ", "")
}

// begin takes a person to the second step.
func (p *person) begin(path string, fields ...string) string {
	p.w.t.Helper()
	p.post(path+"/begin", fields...).wantRedirect(p.w.t, path)
	return p.get(path).secret(p.w.t.(*testing.T))
}

func now(t *testing.T, secret string) string {
	t.Helper()
	code, err := totp.GenerateCode(secret, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func TestSetupOfAnInvitedPerson(t *testing.T) {
	w := invited(t)
	p := w.person()
	p.get("/setup/carol").want(t, http.StatusOK, "You are invited", "carol@example.com")
	secret := p.begin("/setup/carol", "login", "mallory@example.com") // the form cannot choose another address
	a := p.post("/setup/carol", "password", setupPass, "confirm", setupPass, "code", now(t, secret), "login", "mallory@example.com")
	a.want(t, http.StatusOK, "Your account is ready", "carol@example.com", "only time they are shown")
	if n := strings.Count(a.body, `<code class="recovery">`); n != 10 {
		t.Errorf("%d recovery codes, want 10", n)
	}
	if w.api.passwords["carol@example.com"] != setupPass || w.api.passwords["mallory@example.com"] != "" {
		t.Errorf("accounts: %v", w.api.users)
	}
	if p.cookie() != "" {
		t.Error("the setup left a session behind")
	}
	p.get("/setup/carol").want(t, http.StatusNotFound, "not valid any more")
	p.post("/login", "login", "carol@example.com", "password", setupPass, "code", now(t, secret)).wantRedirect(t, "/")
}

func TestSetupOfTheFirstAdministrator(t *testing.T) {
	w := invited(t)
	p := w.person()
	p.get("/setup/first").want(t, http.StatusOK, "first administrator", `id="login"`)
	for _, login := range []string{"", "grace", "grace@", "@example.com", "a b@example.com", "a@b@c", "a@b, c@d", strings.Repeat("a", 250) + "@example.com"} {
		p.post("/setup/first/begin", "login", login).want(t, http.StatusUnprocessableEntity, "That is not an e-mail address")
	}
	secret := p.begin("/setup/first", "login", " Grace@Example.com ")
	p.get("/setup/first?change=1").want(t, http.StatusOK, `value="grace@example.com"`)
	p.post("/setup/first", "password", setupPass, "confirm", setupPass, "code", now(t, secret)).want(t, http.StatusOK, "grace@example.com")
}

// TestSetupKeepsItsSecret: a failed try shows the same TOTP secret again, and no form can bring its own.
func TestSetupKeepsItsSecret(t *testing.T) {
	w := invited(t)
	p := w.person()
	secret := p.begin("/setup/carol")
	good := now(t, secret)
	own := newSecret(t)
	for name, c := range map[string]struct {
		password, confirm, code, text string
	}{
		"no password":        {"", "", good, "Choose a password."},
		"short":              {"eleven-char", "eleven-char", good, "at least 12 characters"},
		"differs":            {setupPass, setupPass + "s", good, "The two passwords differ."},
		"holds the name":     {"my name is Carol ok", "my name is Carol ok", good, "out of the password"},
		"holds the address":  {"Carol@Example.com!!", "Carol@Example.com!!", good, "out of the password"},
		"one character":      {"aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaa", good, "five different characters"},
		"huge":               {strings.Repeat("long word ", 110), strings.Repeat("long word ", 110), good, "too long"},
		"no code":            {setupPass, setupPass, "", "Type the six digits"},
		"wrong code":         {setupPass, setupPass, "000000", "That code is not right."},
		"code of own secret": {setupPass, setupPass, now(t, own), "That code is not right."},
	} {
		t.Run(name, func(t *testing.T) {
			a := p.post("/setup/carol", "password", c.password, "confirm", c.confirm, "code", c.code, "secret", own, "TOTPSecret", own)
			a.want(t, http.StatusUnprocessableEntity, c.text, `aria-invalid="true"`)
			if a.secret(t) != secret {
				t.Error("the secret changed")
			}
			if c.password != "" && strings.Contains(a.body, c.password) {
				t.Error("the page repeats the password")
			}
		})
	}
	if _, ok := w.api.invitations["carol"]; !ok {
		t.Error("a failed try spent the link")
	}
	p.post("/setup/carol", "password", setupPass, "confirm", setupPass, "code", good).want(t, http.StatusOK, "Your account is ready")
}

// TestSetupSecretIsOfOneBrowserAndLink: nobody else sees it, and it does not carry over to another link.
func TestSetupSecretIsOfOneBrowserAndLink(t *testing.T) {
	w := invited(t)
	p := w.person()
	secret := p.begin("/setup/carol")
	a := w.person().get("/setup/carol")
	a.want(t, http.StatusOK, "Continue")
	if strings.Contains(strings.ReplaceAll(a.body, " ", ""), secret) {
		t.Error("another browser sees the secret")
	}
	w.person().get("/setup/carol/qr").want(t, http.StatusNotFound)
	p.get("/setup/first/qr").want(t, http.StatusNotFound)
	p.get("/setup/first").want(t, http.StatusOK, "first administrator")
	p.post("/setup/first", "password", setupPass, "confirm", setupPass, "code", now(t, secret)).wantRedirect(t, "/setup/first")
	w.person().post("/setup/carol", "password", setupPass, "confirm", setupPass, "code", now(t, secret)).wantRedirect(t, "/setup/carol")
	if w.api.called("CompleteSetup") {
		t.Error("a setup that was not begun was finished")
	}
	if again := p.begin("/setup/carol"); again == secret {
		t.Error("beginning anew kept the old secret")
	}
}

func TestSetupPicture(t *testing.T) {
	w := invited(t)
	p := w.person()
	p.begin("/setup/carol")
	a := p.get("/setup/carol/qr")
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "image/png" || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("status %d, headers %v", a.status, a.header)
	}
	img, err := png.Decode(bytes.NewReader([]byte(a.body)))
	if err != nil {
		t.Fatal(err)
	}
	if b := img.Bounds(); b.Dx() < 200 || b.Dx() != b.Dy() {
		t.Errorf("picture of %v", b)
	}
}

func TestSetupLinksThatAreNoMore(t *testing.T) {
	w := invited(t)
	p := w.person()
	for _, path := range []string{"/setup/used", "/setup/" + strings.Repeat("x", 500), "/setup/%00%0a"} {
		p.get(path).want(t, http.StatusNotFound, "not valid any more")
	}
	p.post("/setup/used/begin").want(t, http.StatusNotFound)
	p.post("/setup/used").want(t, http.StatusNotFound)
}

func TestSetupRefusedByTheCoordinator(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		text   string
	}{
		"address taken":  {refuse(coordinator.CodeConflict, "carol@example.com has an account already."), 409, "has an account already"},
		"throttled":      {refuse(protocol.CodeThrottled, "Too many tries: wait a minute."), 429, "wait a minute"},
		"link just used": {refuse(coordinator.CodeNotFound, "This setup link was used."), 404, "was used"},
	} {
		t.Run(name, func(t *testing.T) {
			w := invited(t)
			p := w.person()
			secret := p.begin("/setup/carol")
			w.api.fail["CompleteSetup"] = c.err
			p.post("/setup/carol", "password", setupPass, "confirm", setupPass, "code", now(t, secret)).want(t, c.status, c.text)
		})
	}
}
