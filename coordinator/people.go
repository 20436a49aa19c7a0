package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"picket.internal/acl"
)

// User is an account as others see it.
type User struct {
	ID      acl.UserID `json:"id"`
	Login   string     `json:"login"`
	Role    Role       `json:"role"`
	State   string     `json:"state"` // "invited" or "active"
	Created time.Time  `json:"created"`
	Groups  []string   `json:"groups"` // by the policy in force
	Nodes   int        `json:"nodes"`
}

func (c *Coordinator) userView(u UserRow) User {
	w := c.world.Load()
	v := User{ID: u.ID, Login: u.Login, Role: u.Role, State: "invited", Created: u.Created, Groups: w.policy.Groups(u.Login)}
	if u.Active {
		v.State = "active"
	}
	for _, n := range w.nodes.all() {
		if n.Owner == u.ID {
			v.Nodes++
		}
	}
	return v
}

// Life of a setup link.
const (
	inviteLife = 72 * time.Hour
	firstLife  = 72 * time.Hour
)

// loginForm is an e-mail address as logins are: lower case, ASCII.
var loginForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._%+-]*@[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)

func cleanLogin(login string) (string, error) {
	login = strings.ToLower(strings.TrimSpace(login))
	if len(login) > 254 || !loginForm.MatchString(login) || strings.Contains(login, "..") {
		return "", refuse(CodeInvalid, "%q is no e-mail address", oneLine(login, 80))
	}
	return login, nil
}

// Invitation is what a setup link opens. Login is empty on the first admin's: that person chooses it.
type Invitation struct {
	Login   string
	Role    Role
	Expires time.Time
}

// FirstSetup returns a fresh one-time token for the first admin, and false when an account already exists. Older ones are spent by it.
func (c *Coordinator) FirstSetup(ctx context.Context) (token string, needed bool, err error) {
	err = c.store.Update(ctx, func(tx Tx) error {
		users, err := tx.Users()
		if err != nil || len(users) > 0 {
			return err
		}
		needed = true
		token, err = newSetup(tx, "", firstLife)
		return err
	})
	return token, needed, c.outward(ctx, err)
}

// newSetup stores a setup token for u (empty: the first admin) in place of older ones, and returns it.
func newSetup(tx Tx, u acl.UserID, life time.Duration) (string, error) {
	if err := tx.DropSetups(u); err != nil {
		return "", err
	}
	t := token(32)
	return t, tx.InsertSetup(SetupRow{Hash: tokenHash(t), User: u, Expires: tx.Now().Add(life)})
}

// Invitation looks at a setup token without spending it.
func (c *Coordinator) Invitation(ctx context.Context, token string) (Invitation, error) {
	var i Invitation
	err := c.store.View(ctx, func(tx ReadTx) error {
		row, u, err := invited(tx, token)
		i = Invitation{Login: u.Login, Role: u.Role, Expires: row.Expires}
		return err
	})
	return i, c.outward(ctx, err)
}

// invited finds a token that may be spent now, and the account it is for; for the first admin's, that has only a role.
func invited(tx ReadTx, token string) (SetupRow, UserRow, error) {
	over := refuse(CodeNotFound, "this setup link was used, replaced by a newer one, or is too old: ask an admin for a new one")
	row, err := tx.Setup(tokenHash(token))
	if errors.Is(err, ErrNoRow) || err == nil && !tx.Now().Before(row.Expires) {
		return row, UserRow{}, over
	}
	if err != nil {
		return row, UserRow{}, err
	}
	if row.User != "" {
		u, err := tx.UserByID(row.User)
		if errors.Is(err, ErrNoRow) || err == nil && u.Active {
			return row, UserRow{}, over
		}
		return row, u, err
	}
	users, err := tx.Users()
	if err == nil && len(users) > 0 {
		return row, UserRow{}, over
	}
	return row, UserRow{Role: RoleAdmin}, err
}

// Setup is what a person fills in behind a setup link.
type Setup struct {
	Token, Login, Password string
	TOTPSecret             string // base32, as made by NewTOTP and shown to the person
	Code                   string // current code of that secret
	From                   netip.Addr
}

// CompleteSetup spends the token and makes or activates the account: the user and ten recovery codes, shown once. Nothing is spent when
// anything is wrong with the rest.
func (c *Coordinator) CompleteSetup(ctx context.Context, s Setup) (User, []string, error) {
	u, codes, err := c.completeSetup(ctx, s)
	return u, codes, c.outward(ctx, err)
}

func (c *Coordinator) completeSetup(ctx context.Context, s Setup) (User, []string, error) {
	i, err := c.Invitation(ctx, s.Token) // before the costly hash
	if err != nil {
		return User{}, nil, err
	}
	if i.Login == "" {
		if i.Login, err = cleanLogin(s.Login); err != nil {
			return User{}, nil, err
		}
	}
	if err := checkPassword(s.Password, i.Login); err != nil {
		return User{}, nil, err
	}
	if s.TOTPSecret, err = cleanTOTP(s.TOTPSecret); err != nil {
		return User{}, nil, err
	}
	password, err := c.hashing.make(ctx, s.Password)
	if err != nil {
		return User{}, nil, err
	}
	var u UserRow
	var codes []string
	_, err = c.update(ctx, Actor{Kind: ActorUser, Name: i.Login, From: s.From}, func(ch *change) error {
		u, codes, err = ch.activate(s, i.Login, password)
		return err
	})
	if err != nil {
		return User{}, nil, err
	}
	return c.userView(u), codes, nil
}

func (ch *change) activate(s Setup, login, password string) (UserRow, []string, error) {
	_, u, err := invited(ch, s.Token)
	if err != nil {
		return u, nil, err
	}
	step, ok := matchTOTP(s.TOTPSecret, plainCode(s.Code), ch.Now())
	if !ok {
		return u, nil, refuse(CodeInvalid, "that is not the code your authenticator shows for this account now: check the device's clock, and try the next code")
	}
	if ok, err := ch.SpendSetup(tokenHash(s.Token)); err != nil {
		return u, nil, err
	} else if !ok {
		return u, nil, refuse(CodeNotFound, "this setup link was used")
	}
	first := u.ID == ""
	if first {
		u.ID, u.Login, u.Created = acl.UserID(randomID("u")), login, ch.Now()
	}
	u.Active, u.Password, u.TOTPStep = true, password, step
	u.TOTP = ch.c.secrets.sealTOTP(u.ID, s.TOTPSecret)
	if first {
		err = ch.InsertUser(u)
	} else {
		err = ch.UpdateUser(u)
	}
	if err != nil {
		return u, nil, err
	}
	codes, err := ch.newRecovery(u.ID)
	ch.raise()
	ch.record("user.setup", u.Login, string(u.Role))
	return u, codes, err
}

// newRecovery makes fresh recovery codes for u; only their keyed hashes are stored.
func (ch *change) newRecovery(u acl.UserID) ([]string, error) {
	codes, macs := make([]string, recoveryCodes), make([][32]byte, recoveryCodes)
	for i := range codes {
		codes[i] = newRecoveryCode()
		macs[i] = ch.c.secrets.hash("recovery", string(u), plainCode(codes[i]))
	}
	return codes, ch.SetRecovery(u, macs)
}

// Users lists accounts by login.
func (c *Coordinator) Users(ctx context.Context, a Actor) ([]User, error) {
	out := []User{}
	err := c.store.View(ctx, func(tx ReadTx) error {
		if _, err := reachOf(tx, a, rightListUsers); err != nil {
			return err
		}
		rows, err := tx.Users()
		for _, u := range rows {
			out = append(out, c.userView(u))
		}
		return err
	})
	return out, c.outward(ctx, err)
}

// AddUser invites a person: the account, and the one-time token of the setup link (valid 72 h). Inviting again one who has not set the
// account up yet makes a new link, and the old one useless.
func (c *Coordinator) AddUser(ctx context.Context, a Actor, login string, r Role) (User, string, error) {
	var u UserRow
	var link string
	_, err := c.update(ctx, a, func(ch *change) error {
		if err := ch.allowed(rightAddUser); err != nil {
			return err
		}
		login, err := cleanLogin(login)
		if err != nil {
			return err
		}
		if r != RoleAdmin && r != RoleMember {
			return refuse(CodeInvalid, "%q is no role: use %s or %s", oneLine(string(r), 40), RoleAdmin, RoleMember)
		}
		if u, err = ch.invite(login, r); err != nil {
			return err
		}
		ch.raise()
		ch.record("user.add", login, string(r))
		link, err = newSetup(ch, u.ID, inviteLife)
		return err
	})
	if err != nil {
		return User{}, "", c.outward(ctx, err)
	}
	return c.userView(u), link, nil
}

func (ch *change) invite(login string, r Role) (UserRow, error) {
	u, err := ch.UserByLogin(login)
	switch {
	case errors.Is(err, ErrNoRow):
		u = UserRow{ID: acl.UserID(randomID("u")), Login: login, Role: r, Created: ch.Now()}
		return u, ch.InsertUser(u)
	case err != nil:
		return u, err
	case u.Active:
		return u, refuse(CodeConflict, "%s has an account already: remove it first to start it anew", login)
	}
	u.Role = r
	return u, ch.UpdateUser(u)
}

// RemoveUser removes the account, its page sessions, nodes, auth keys and tokens. The last admin can only be removed by the operator. When storage
// fails it takes effect all the same, and the error, with CodeUnavailable, comes together with the change.
func (c *Coordinator) RemoveUser(ctx context.Context, a Actor, login string) (Change, error) {
	pick := func(p people) (victim, error) {
		if _, err := reachOf(p, a, rightRemoveUser); err != nil {
			return victim{}, err
		}
		u, err := p.UserByLogin(strings.ToLower(strings.TrimSpace(login)))
		if errors.Is(err, ErrNoRow) {
			return victim{}, refuse(CodeNotFound, "there is no account %s", oneLine(login, 80))
		}
		if err != nil {
			return victim{}, err
		}
		return victim{user: u.ID, summary: fmt.Sprintf("user %s is removed", u.Login)}, keepsAdmin(p, a, u)
	}
	return c.revoked(ctx, a, pick, func(ch *change, v victim) error { return ch.removeUser(v.user) })
}

// keepsAdmin refuses to let people lock themselves out.
func keepsAdmin(p people, a Actor, leaving UserRow) error {
	if a.Kind == ActorOperator || leaving.Role != RoleAdmin || !leaving.Active {
		return nil
	}
	users, err := p.Users()
	if err != nil {
		return err
	}
	for _, u := range users {
		if u.Role == RoleAdmin && u.Active && u.ID != leaving.ID {
			return nil
		}
	}
	return refuse(CodeConflict, "%s is the last admin: make another one first, or let the operator remove the account", leaving.Login)
}

func (ch *change) removeUser(id acl.UserID) error {
	u, err := ch.UserByID(id)
	if err != nil {
		return err
	}
	nodes, err := ch.Nodes()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Owner == id {
			if err := ch.removeNode(n.ID, "node.remove"); err != nil {
				return err
			}
		}
	}
	keys, err := ch.RevokeAuthKeysOf(id)
	if err != nil {
		return err
	}
	tokens, err := ch.RevokeTokensOf(id)
	if err != nil {
		return err
	}
	ch.narrow()
	ch.record("user.remove", u.Login, fmt.Sprintf("with %d auth keys and %s", keys, plural(tokens, "token")))
	return ch.DeleteUser(id)
}
