package web

import (
	"net/http"
	"net/url"
	"strings"

	"rsc.io/qr"

	"picket.internal/coordinator"
)

// SetupPath is where a setup link with this token leads, below the coordinator's URL.
func SetupPath(token string) string { return "/setup/" + url.PathEscape(token) }

// setupStart is the data of the first step, which settles the e-mail address. Only then is a TOTP secret made, since the authenticator
// app shows the address beside it.
type setupStart struct {
	Path  string
	Fixed string // the invited person's address; empty: to be chosen
	Login string // as typed
	First bool   // the network's first administrator
	Fault faults
}

// setupForm is the data of the second step.
type setupForm struct {
	Path   string
	Login  string
	Secret string // in groups of four
	Choose bool   // the address may still be changed
	Fault  faults
}

// setupPage shows the step the person is at. It spends nothing and stores nothing: mail scanners open links too.
func (s *site) setupPage(v *visit) (reply, error) {
	token := v.PathValue("token")
	inv, err := s.api.Invitation(v.Context(), token)
	if err != nil {
		return reply{}, err
	}
	p, begun := s.sessions.setup(v, token)
	if begun && !v.Form.Has("change") {
		return page("setup", newSetupForm(token, inv, p, nil)), nil
	}
	return page("setup-start", newSetupStart(token, inv, p.login, nil)), nil
}

// beginSetup makes the TOTP secret and keeps it in a fresh session.
func (s *site) beginSetup(v *visit) (reply, error) {
	token := v.PathValue("token")
	inv, err := s.api.Invitation(v.Context(), token)
	if err != nil {
		return reply{}, err
	}
	login := inv.Login
	if login == "" {
		login = strings.ToLower(strings.TrimSpace(v.PostFormValue("login")))
	}
	if !looksLikeEmail(login) {
		f := faults{"login": "That is not an e-mail address, such as alice@example.com."}
		return formPage(http.StatusUnprocessableEntity, "setup-start", newSetupStart(token, inv, login, f)), nil
	}
	secret, otpauth, err := s.api.NewTOTP(login)
	if err != nil {
		return reply{}, err
	}
	if err := s.sessions.beginSetup(v, token, pendingSetup{login, secret, otpauth}); err != nil {
		return reply{}, err
	}
	return redirect(SetupPath(token)), nil
}

// setupQR is the otpauth address as a picture, for this browser's begun setup alone.
func (s *site) setupQR(v *visit) (reply, error) {
	p, begun := s.sessions.setup(v, v.PathValue("token"))
	if !begun {
		return problem(http.StatusNotFound, "There is no such picture", "Open your setup link again."), nil
	}
	code, err := qr.Encode(p.url, qr.M)
	if err != nil {
		return reply{}, err
	}
	return reply{file: &file{contentType: "image/png", bytes: code.PNG()}}, nil
}

// finishSetup makes the account and shows its recovery codes, this once.
func (s *site) finishSetup(v *visit) (reply, error) {
	token := v.PathValue("token")
	inv, err := s.api.Invitation(v.Context(), token)
	if err != nil {
		return reply{}, err
	}
	p, begun := s.sessions.setup(v, token)
	if !begun { // the session ran out, or the browser keeps no cookies
		return redirect(SetupPath(token)), nil
	}
	again := func(status int, f faults) (reply, error) {
		return formPage(status, "setup", newSetupForm(token, inv, p, f)), nil
	}
	password, code := v.PostFormValue("password"), strings.TrimSpace(v.PostFormValue("code"))
	if f := setupFaults(password, v.PostFormValue("confirm"), code, p.login); len(f) > 0 {
		return again(http.StatusUnprocessableEntity, f)
	}
	u, codes, err := s.api.CompleteSetup(v.Context(), coordinator.Setup{
		Token: token, Login: p.login, Password: password, TOTPSecret: p.secret, Code: code, From: v.from,
	})
	if e := correctable(err); e != nil {
		f := whole(e)
		if e.Code == coordinator.CodeSignIn || e.Code == coordinator.CodeWrongCode {
			f = faults{"code": e.Message}
		}
		return again(statusFor(e), f)
	}
	if err != nil {
		return reply{}, err
	}
	if err := s.sessions.signOut(v); err != nil {
		return reply{}, err
	}
	return page("recovery", recoveryPage{Login: u.Login, Codes: codes}), nil
}

// recoveryPage is the data of the page that shows recovery codes.
type recoveryPage struct {
	Login string
	Codes []string
}

func setupFaults(password, confirm, code, login string) faults {
	f := faults{}
	if fault := passwordFault(password, login); fault != "" {
		f["password"] = fault
	} else if confirm != password {
		f["confirm"] = "The two passwords differ."
	}
	if code == "" {
		f["code"] = "Type the six digits that your app shows."
	}
	return f
}

func newSetupStart(token string, inv coordinator.Invitation, login string, f faults) setupStart {
	return setupStart{Path: SetupPath(token), Fixed: inv.Login, Login: login, First: inv.Login == "", Fault: f}
}

func newSetupForm(token string, inv coordinator.Invitation, p pendingSetup, f faults) setupForm {
	return setupForm{Path: SetupPath(token), Login: p.login, Secret: groups(p.secret), Choose: inv.Login == "", Fault: f}
}

// groups sets a secret in fours, as people type it.
func groups(secret string) string {
	var b strings.Builder
	for i, r := range secret {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return b.String()
}
