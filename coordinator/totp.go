package coordinator

import (
	"crypto/subtle"
	"encoding/base32"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"
)

// One-time codes (RFC 6238): SHA-1, 6 digits, 30 s steps, the ones authenticator programs all know.
const (
	totpStep  = 30 * time.Second
	totpSkew  = 1  // steps either way that a phone's clock may be off
	totpBytes = 20 // of the secret, RFC 4226 section 4
)

// NewTOTP makes a secret and its otpauth URL for login.
func (c *Coordinator) NewTOTP(login string) (secret, url string, err error) {
	k, err := totp.Generate(totp.GenerateOpts{Issuer: "Picket", AccountName: oneLine(login, 254), SecretSize: totpBytes})
	if err != nil {
		return "", "", refuse(CodeInvalid, "no one-time code can be made for this e-mail address")
	}
	return k.Secret(), k.URL(), nil
}

// cleanTOTP brings a secret to its one form, and refuses one that is too short to be ours.
func cleanTOTP(secret string) (string, error) {
	secret = strings.ToUpper(strings.ReplaceAll(strings.TrimRight(secret, "="), " ", ""))
	b, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	if err != nil || len(b) < totpBytes || len(b) > 64 {
		return "", refuse(CodeInvalid, "the one-time code secret is not the one that was shown: open the setup link again")
	}
	return secret, nil
}

// matchTOTP returns the step whose code was typed: one within totpSkew of now. It looks at all of them whatever it finds, so that its time
// tells nothing. That a step is used once is for the caller to see to.
func matchTOTP(secret, code string, now time.Time) (step int64, ok bool) {
	at := now.Unix() / int64(totpStep/time.Second)
	for d := int64(-totpSkew); d <= totpSkew; d++ {
		want, err := totp.GenerateCodeCustom(secret, time.Unix((at+d)*int64(totpStep/time.Second), 0), totp.ValidateOpts{
			Period: uint(totpStep / time.Second), Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1,
		})
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 {
			step, ok = at+d, true
		}
	}
	return step, ok
}

// looksLikeTOTP reports whether what was typed is meant as a one-time code rather than a recovery code.
func looksLikeTOTP(code string) bool {
	return len(code) == 6 && strings.Trim(code, "0123456789") == ""
}

// recoveryCodes is how many are made at setup.
const recoveryCodes = 10

// newRecoveryCode is four groups of four letters and digits: 80 bits.
func newRecoveryCode() string {
	s := token(10)
	return s[:4] + "-" + s[4:8] + "-" + s[8:12] + "-" + s[12:]
}
