package web

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"picket.internal/coordinator"
)

// keyLife is one choice of how long an auth key is good for.
type keyLife struct {
	Value string
	Label string
	life  time.Duration
}

var keyLives = []keyLife{
	{"1h", "1 hour", time.Hour},
	{"24h", "1 day", 24 * time.Hour},
	{"168h", "7 days", 7 * 24 * time.Hour},
	{"720h", "30 days", 30 * 24 * time.Hour},
}

// keysView is the data of the page "keys".
type keysView struct {
	Keys     []coordinator.AuthKey
	Lives    []keyLife
	Tags     string // as typed
	Reusable bool
	Life     string
	Fault    faults
	New      *coordinator.AuthKey
	Text     string // of New, shown once
	Join     string
}

func (s *site) keysPage(v *visit) (reply, error) {
	return s.showKeys(v, http.StatusOK, keysView{Life: keyLives[0].Value})
}

// showKeys fills in the list.
func (s *site) showKeys(v *visit, status int, p keysView) (reply, error) {
	keys, err := s.api.AuthKeys(v.Context(), v.actor())
	if err != nil {
		return reply{}, err
	}
	p.Keys, p.Lives, p.Join = keys, keyLives, s.join
	return formPage(status, "keys", p), nil
}

// createKey answers with the page itself, not with a way to it: the key's text is shown this once and kept nowhere.
func (s *site) createKey(v *visit) (reply, error) {
	typed := v.PostFormValue("tags")
	p := keysView{Tags: clean(typed, 1000), Reusable: v.PostFormValue("reusable") != "", Life: v.PostFormValue("life")}
	life, tags, f := time.Duration(0), parseTags(typed), faults{}
	for _, l := range keyLives {
		if l.Value == p.Life {
			life = l.life
		}
	}
	if life == 0 {
		f["life"] = "Choose how long the key is good for."
	}
	if len(tags) == 0 {
		f["tags"] = "Name at least one tag, such as tag:db: a key lets in servers, not people's machines."
	}
	if len(f) > 0 {
		p.Fault = f
		return s.showKeys(v, http.StatusUnprocessableEntity, p)
	}
	k, text, err := s.api.CreateAuthKey(v.Context(), v.actor(), coordinator.NewAuthKey{Tags: tags, Reusable: p.Reusable, Life: life})
	if e := correctable(err); e != nil {
		p.Fault = faults{"tags": e.Message}
		return s.showKeys(v, statusFor(e), p)
	}
	if err != nil {
		return reply{}, err
	}
	return s.showKeys(v, http.StatusOK, keysView{Life: keyLives[0].Value, New: &k, Text: text})
}

// parseTags reads tags between commas or spaces; "db" means "tag:db".
func parseTags(s string) []string {
	var tags []string
	for _, t := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' }) {
		if !strings.HasPrefix(t, "tag:") {
			t = "tag:" + t
		}
		tags = append(tags, t)
	}
	return tags
}

func (s *site) revokeKeyPage(v *visit) (reply, error) {
	id := v.PathValue("key")
	keys, err := s.api.AuthKeys(v.Context(), v.actor())
	if err != nil {
		return reply{}, err
	}
	for _, k := range keys {
		if k.ID == id {
			return page("confirm", confirmPage{
				Heading: "Revoke the key " + clean(k.ID, 64) + "?", Button: "Revoke", Danger: true,
				Path: "/keys/" + url.PathEscape(k.ID) + "/revoke", Back: "/keys",
				Lines: []string{
					"It lets nobody in any more. It was made for " + joinText(k.Tags) + ", and used " + count(k.Uses, "time", "times") + ".",
					"Machines that it let in stay. Remove those one by one.",
				},
			}), nil
		}
	}
	return problem(http.StatusNotFound, "There is no such key", "Look at the list of auth keys."), nil
}

func (s *site) revokeKey(v *visit) (reply, error) {
	if err := s.api.RevokeAuthKey(v.Context(), v.actor(), v.PathValue("key")); err != nil {
		return reply{}, err
	}
	return redirect("/keys"), nil
}
