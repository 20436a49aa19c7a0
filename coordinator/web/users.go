package web

import (
	"net/http"
	"net/url"
	"strings"

	"picket.internal/coordinator"
)

// usersView is the data of the page "users".
type usersView struct {
	Users   []coordinator.User
	Login   string // as typed
	Role    coordinator.Role
	Fault   faults
	Invited string // login of a person just added
	Link    string // the setup link, shown once
}

func (s *site) usersPage(v *visit) (reply, error) {
	return s.showUsers(v, http.StatusOK, usersView{Role: coordinator.RoleMember})
}

// showUsers fills in the list.
func (s *site) showUsers(v *visit, status int, p usersView) (reply, error) {
	users, err := s.api.Users(v.Context(), v.actor())
	if err != nil {
		return reply{}, err
	}
	p.Users = users
	return formPage(status, "users", p), nil
}

// addUser answers with the page itself, not with a way to it: the link is shown this once and kept nowhere.
func (s *site) addUser(v *visit) (reply, error) {
	p := usersView{Login: strings.ToLower(strings.TrimSpace(v.PostFormValue("login"))), Role: coordinator.Role(v.PostFormValue("role"))}
	f := faults{}
	if !looksLikeEmail(p.Login) {
		f["login"] = "That is not an e-mail address, such as alice@example.com."
	}
	if p.Role != coordinator.RoleMember && p.Role != coordinator.RoleAdmin {
		f["role"] = "Choose member or administrator."
	}
	if len(f) > 0 {
		p.Login, p.Fault = clean(p.Login, 254), f
		return s.showUsers(v, http.StatusUnprocessableEntity, p)
	}
	u, token, err := s.api.AddUser(v.Context(), v.actor(), p.Login, p.Role)
	if e := correctable(err); e != nil {
		p.Fault = faults{"login": e.Message}
		return s.showUsers(v, statusFor(e), p)
	}
	if err != nil {
		return reply{}, err
	}
	return s.showUsers(v, http.StatusOK, usersView{Role: coordinator.RoleMember, Invited: u.Login, Link: s.base + SetupPath(token)})
}

func (s *site) removeUserPage(v *visit) (reply, error) {
	login := v.PathValue("login")
	users, err := s.api.Users(v.Context(), v.actor())
	if err != nil {
		return reply{}, err
	}
	for _, u := range users {
		if u.Login == login {
			return page("confirm", confirmRemoveUser(u, u.ID == v.user.ID)), nil
		}
	}
	return problem(http.StatusNotFound, "There is no such account", "It may have been removed meanwhile. Look at the list of people."), nil
}

func confirmRemoveUser(u coordinator.User, self bool) confirmPage {
	c := confirmPage{
		Heading: "Remove " + clean(u.Login, 254) + "?", Button: "Remove", Danger: true, Back: "/users",
		Path: "/users/" + url.PathEscape(u.Login) + "/remove",
		Lines: []string{
			"The account is gone at once, with " + count(u.Nodes, "machine", "machines") + " and all auth keys and tokens it made. Every flow of those machines is cut.",
			"This cannot be taken back. The same address can be invited again, as a new account.",
		},
	}
	if self {
		c.Lines = append([]string{"This is your own account: you will be signed out."}, c.Lines...)
	}
	return c
}

func (s *site) removeUser(v *visit) (reply, error) {
	c, err := s.api.RemoveUser(v.Context(), v.actor(), v.PathValue("login"))
	return after(c, "/users", err)
}
