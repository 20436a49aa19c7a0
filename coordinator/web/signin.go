package web

import (
	"net/http"
	"strings"

	"picket.internal/coordinator"
)

// loginForm is the data of the sign-in page. Password and code are never shown again.
type loginForm struct {
	Login string
	Next  string // local path
	Join  bool   // a machine waits to be let in
	Fault faults
}

func newLoginForm(login, next string, f faults) loginForm {
	return loginForm{Login: login, Next: next, Join: strings.HasPrefix(next, "/join/"), Fault: f}
}

func (s *site) loginPage(v *visit) (reply, error) {
	next := localPath(v.FormValue("next"))
	if v.known() {
		return redirect(next), nil
	}
	return page("login", newLoginForm("", next, nil)), nil
}

// login asks the authenticator. What it refuses is said for the form as a whole: nobody learns which part was wrong.
func (s *site) login(v *visit) (reply, error) {
	next := localPath(v.PostFormValue("next"))
	in := coordinator.SignIn{
		Login:    strings.TrimSpace(v.PostFormValue("login")),
		Password: v.PostFormValue("password"),
		Code:     strings.TrimSpace(v.PostFormValue("code")),
		From:     v.from,
	}
	if f := loginFaults(in); len(f) > 0 {
		return formPage(http.StatusUnprocessableEntity, "login", newLoginForm(in.Login, next, f)), nil
	}
	u, err := s.auth.SignIn(v.Context(), in)
	if e := correctable(err); e != nil {
		return formPage(statusFor(e), "login", newLoginForm(in.Login, next, whole(e))), nil
	}
	if err != nil {
		return reply{}, err
	}
	if err := s.sessions.signIn(v, u.ID); err != nil {
		return reply{}, err
	}
	return redirect(next), nil
}

func loginFaults(in coordinator.SignIn) faults {
	f := faults{}
	if in.Login == "" {
		f["login"] = "Type your e-mail address."
	}
	if in.Password == "" || len(in.Password) > maxPassword {
		f["password"] = "Type your password."
	}
	if in.Code == "" {
		f["code"] = "Type the six digits of your app, or a recovery code."
	}
	return f
}

func (s *site) logout(v *visit) (reply, error) {
	if err := s.sessions.signOut(v); err != nil {
		return reply{}, err
	}
	return redirect("/login"), nil
}
