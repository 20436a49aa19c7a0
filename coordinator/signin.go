package coordinator

import (
	"context"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// Signing in: (1) the try is counted against the account and the address, in the database, before anything is looked at; (2) the password
// is checked, for an account that does not exist against a hash of nothing; (3) one transaction checks and spends the code, and takes the
// account's tries back, and this one of the address. Every way that fails writes the same and says the same, so that neither words nor
// time tell which part was wrong.

// Bounds on tries. An address may be a whole office's.
const (
	tryWindow         = 5 * time.Minute
	triesPerAccount   = 5
	triesPerAddress   = 20
	failuresPerMinute = 60 // sign-in failures recorded in the audit log, and as many refused tokens; the others are in the process's log alone
)

// SignIn is what a person types to sign in: Code is a TOTP or a recovery code.
type SignIn struct {
	Login, Password, Code string
	From                  netip.Addr
}

// SignIn checks both factors, throttled by account and by address. The error does not say which part was wrong.
func (c *Coordinator) SignIn(ctx context.Context, s SignIn) (User, error) {
	u, err := c.signIn(ctx, s)
	return u, c.outward(ctx, err)
}

func (c *Coordinator) signIn(ctx context.Context, s SignIn) (User, error) {
	login := strings.ToLower(strings.TrimSpace(s.Login))
	account, address := tryBuckets(login, s.From)
	if err := c.countTry(ctx, account, address); err != nil {
		return User{}, err
	}
	u, err := c.accountOf(ctx, login)
	if err != nil {
		return User{}, err
	}
	password, err := c.hashing.check(ctx, u.Password, s.Password)
	if err != nil {
		return User{}, err
	}
	var in User
	accepted := false
	_, err = c.update(ctx, Actor{Kind: ActorUser, User: u.ID, Name: u.Login, From: s.From}, func(ch *change) error {
		if password {
			if accepted, err = ch.spendCode(u, s.Code); err != nil {
				return err
			}
		}
		if !accepted {
			return ch.recordFailure(u)
		}
		in = c.userView(u)
		ch.record("user.sign-in", u.Login, "")
		// Not all of the address: one who has an account could clear his guesses at others'.
		return errors.Join(ch.ClearTries(account), ch.TakeBackTry(address))
	})
	if err != nil {
		return User{}, err
	}
	if !accepted {
		return User{}, refuse(CodeSignIn, "the e-mail address, the password or the code is wrong")
	}
	return in, nil
}

// tryBuckets are what a try counts against. The login is hashed: what people mistype there is nobody's business.
func tryBuckets(login string, from netip.Addr) (account, address string) {
	h := tokenHash(login)
	return "account " + hex.EncodeToString(h[:16]), "address " + bucketOf(from)
}

func (c *Coordinator) countTry(ctx context.Context, account, address string) error {
	allowed := true
	err := c.store.Update(ctx, func(tx Tx) error {
		for bucket, limit := range map[string]int{account: triesPerAccount, address: triesPerAddress} {
			ok, err := tx.Try(bucket, limit, tryWindow)
			if err != nil {
				return err
			}
			allowed = allowed && ok
		}
		return nil
	})
	if err == nil && !allowed {
		return refuse(protocol.CodeThrottled, "too many tries: wait %d minutes and try again", int(tryWindow.Minutes()))
	}
	return err
}

// accountOf returns the active account of login, and the zero row when there is none.
func (c *Coordinator) accountOf(ctx context.Context, login string) (UserRow, error) {
	var u UserRow
	err := c.store.View(ctx, func(tx ReadTx) (err error) {
		u, err = tx.UserByLogin(login)
		return err
	})
	if errors.Is(err, ErrNoRow) || err == nil && (!u.Active || c.emergency.gone(u.ID)) {
		return UserRow{}, nil
	}
	return u, err
}

// spendCode reports whether code is u's, and spends it. The account is read again: it may have been removed, or set up anew, since its
// password was checked.
func (ch *change) spendCode(u UserRow, code string) (bool, error) {
	now, err := ch.UserByID(u.ID)
	if errors.Is(err, ErrNoRow) || err == nil && (!now.Active || now.Password != u.Password) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	plain := plainCode(code)
	if !looksLikeTOTP(plain) {
		return ch.SpendRecovery(u.ID, ch.c.secrets.hash("recovery", string(u.ID), plain))
	}
	secret, err := ch.c.secrets.openTOTP(u.ID, now.TOTP)
	if err != nil {
		return false, err
	}
	step, ok := matchTOTP(secret, plain, ch.Now())
	if !ok {
		return false, nil
	}
	return ch.AdvanceTOTP(u.ID, step)
}

// recordFailure writes the same for every failure; an unknown account is not named, since people type passwords there.
func (ch *change) recordFailure(u UserRow) error {
	if !ch.c.failures.signIn.Allow() {
		ch.c.log.Warn("a sign-in failed; too many do for the audit log", "from", ch.actor.from())
		return nil
	}
	object := u.Login
	if u.ID == "" {
		object = "an unknown account"
		ch.actor.Name = ""
	}
	ch.record("user.sign-in-failed", object, "")
	return nil
}

// UserByID loads the account behind a page session at each request; CodeNotFound once it is removed.
func (c *Coordinator) UserByID(ctx context.Context, id acl.UserID) (User, error) {
	var u User
	err := c.store.View(ctx, func(tx ReadTx) error {
		row, err := tx.UserByID(id)
		if errors.Is(err, ErrNoRow) || err == nil && (!row.Active || c.emergency.gone(id)) {
			return refuse(CodeNotFound, "this account does not exist any more")
		}
		if err == nil {
			u = c.userView(row)
		}
		return err
	})
	return u, c.outward(ctx, err)
}
