package web

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// lacks checks that texts do not stand in a page.
func (a got) lacks(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(a.body, text) {
			t.Errorf("the page holds %q:\n%s", text, a.body)
		}
	}
}

func TestMembersSeeTheirOwnNodesOnly(t *testing.T) {
	w := newWorld(t)
	a := w.signedIn(memberLogin).get("/")
	a.want(t, http.StatusOK, "Your machines", "bob-laptop", "100.64.0.2", "picket up --coordinator "+w.srv.URL+"#FINGERPRINT")
	a.lacks(t, "ada-laptop", "db-1", "/users", "/audit")
}

func TestOverviewOfAdministrators(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	a := p.get("/")
	a.want(t, http.StatusOK, "Let the developers reach the database", "4f1c2d3e4b5a", "generation 40", "nodes online")
	a.lacks(t, "not in force", "99887766")
	w.api.policy.Refused, w.api.policy.Errors = "9988776655443322", []string{"line 4, column 12: unknown group"}
	p.get("/").want(t, http.StatusOK, "A newer policy is not in force.", "998877665544", "1 error")
	w.api.policy = coordinator.PolicyStatus{Source: "policy.hujson"}
	p.get("/").want(t, http.StatusOK, "No policy is in force, so nothing may pass.")
}

func TestNodesPages(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	p.get("/nodes").want(t, http.StatusOK, "ada-laptop", "bob@example.com", "tag:db", "100.64.0.3", "fd7a:70ad::3", "Online", "Offline", "Quarantined", "3 hours ago")
	p.get("/nodes/n3").want(t, http.StatusOK, "db-1", "Release from quarantine", "device:0123abcd", "0.1.0")
	p.get("/nodes/nope").want(t, http.StatusNotFound, "There is no such node.")
	p.get("/nodes/n1").want(t, http.StatusOK, "/nodes/n1/quarantine", "/nodes/n1/remove", "/nodes/n1/rename")
	w.api.nodes = nil
	p.get("/nodes").want(t, http.StatusOK, "No machine has joined yet")
}

func TestNodeActions(t *testing.T) {
	for name, c := range map[string]struct {
		path, question, called string
		fields                 []string
	}{
		"rename":     {"/nodes/n1/rename", "Rename ada-laptop", "RenameNode", []string{"name", "ada-pc"}},
		"quarantine": {"/nodes/n1/quarantine", "Quarantine ada-laptop?", "QuarantineNode", nil},
		"release":    {"/nodes/n3/release", "Release db-1?", "QuarantineNode", nil},
		"remove":     {"/nodes/n1/remove", "Remove ada-laptop for good?", "RemoveNode", nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.signedIn(adminLogin)
			p.get(c.path).want(t, http.StatusOK, c.question, `action="`+c.path+`"`, "Cancel")
			if w.api.called(c.called) {
				t.Error("asking did it")
			}
			p.post(c.path, c.fields...).wantRedirect(t, "/changes/42")
			if !w.api.called(c.called) {
				t.Error("not done")
			}
			gone := strings.Replace(c.path, c.path[len("/nodes/"):len("/nodes/n1")], "nope", 1)
			p.get(gone).want(t, http.StatusNotFound, "There is no such node.")
			p.post(gone, c.fields...).want(t, http.StatusNotFound, "There is no such node.")
		})
	}
}

func TestRenameToABadNameAsksAgain(t *testing.T) {
	w := newWorld(t)
	w.signedIn(adminLogin).post("/nodes/n1/rename", "name", "<b> x").
		want(t, http.StatusUnprocessableEntity, "That is not a name", `value="&lt;b&gt; x"`, `aria-invalid="true"`)
}

func TestChangePageSaysWhoEnforces(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	p.post("/nodes/n2/quarantine").wantRedirect(t, "/changes/42")
	p.get("/changes/42").want(t, http.StatusOK, "Generation 42", "node.quarantine", "bob-laptop", "In force on 1 of 3 nodes", "the slowest after 84ms",
		"2 live flows were cut", "1 connected node has not confirmed yet", "1 node is not connected", "lease ends")
	for _, path := range []string{"/changes/0", "/changes/x", "/changes/-1", "/changes/99999999999999999999"} {
		p.get(path).want(t, http.StatusNotFound)
	}
	w.api.fail["Enforced"] = errors.New("no")
	p.get("/changes/42").want(t, http.StatusInternalServerError)
}

func TestUsersPages(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	p.get("/users").want(t, http.StatusOK, adminLogin, memberLogin, "administrator", "group:ops")
	p.post("/users", "login", "carol", "role", "member").want(t, http.StatusUnprocessableEntity, "That is not an e-mail address", `value="carol"`)
	p.post("/users", "login", "carol@example.com", "role", "owner").want(t, http.StatusUnprocessableEntity, "Choose member or administrator.")
	p.post("/users", "login", "carol@example.com").want(t, http.StatusUnprocessableEntity, "Choose member or administrator.")
	p.post("/users", "login", memberLogin, "role", "member").want(t, http.StatusConflict, "has an account already", `value="bob@example.com"`)
	link := w.srv.URL + "/setup/setup-token-of-u3"
	p.post("/users", "login", "Carol@example.com", "role", "admin").want(t, http.StatusOK, "Setup link for carol@example.com", link, "invited")
	p.get("/users").lacks(t, "setup-token")
	w.person().get("/setup/setup-token-of-u3").want(t, http.StatusOK, "carol@example.com")
}

func TestRemoveUser(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	p.get("/users/bob@example.com/remove").want(t, http.StatusOK, "Remove bob@example.com?", "1 machine")
	p.get("/users/ada@example.com/remove").want(t, http.StatusOK, "This is your own account")
	p.get("/users/nobody@example.com/remove").want(t, http.StatusNotFound)
	p.post("/users/nobody@example.com/remove").want(t, http.StatusNotFound)
	p.post("/users/bob@example.com/remove").wantRedirect(t, "/changes/42")
	p.get("/users").lacks(t, memberLogin)
}

func TestKeysPages(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	p.get("/keys").want(t, http.StatusOK, "There are no auth keys.")
	p.post("/keys", "tags", " , ", "life", "1h").want(t, http.StatusUnprocessableEntity, "Name at least one tag")
	p.post("/keys", "tags", "db", "life", "9999h").want(t, http.StatusUnprocessableEntity, "how long the key is good for", `value="db"`)
	p.post("/keys", "tags", "nobody", "life", "1h").want(t, http.StatusUnprocessableEntity, "The policy defines no tag:nobody.")
	p.post("/keys", "tags", "db, tag:web", "life", "24h", "reusable", "1").
		want(t, http.StatusOK, "New key for tag:db, tag:web", "picket-key-k1-secretsecret", "any number of machines", "reusable", "valid")
	p.get("/keys").lacks(t, "secretsecret")
	if k := w.api.keys[0]; !k.Reusable || len(k.Tags) != 2 || time.Until(k.Expires) < 23*time.Hour {
		t.Errorf("made %+v", k)
	}
	p.post("/keys", "tags", "db", "life", "1h").want(t, http.StatusOK, "for one machine", "0 of 1")
	p.get("/keys/k1/revoke").want(t, http.StatusOK, "Revoke the key k1?", "Machines that it let in stay")
	p.get("/keys/k9/revoke").want(t, http.StatusNotFound)
	p.post("/keys/k9/revoke").want(t, http.StatusNotFound)
	p.post("/keys/k1/revoke").wantRedirect(t, "/keys")
	p.get("/keys").want(t, http.StatusOK, "revoked")
}

func TestPolicyPage(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	a := p.get("/policy")
	a.want(t, http.StatusOK, "https://git.example.com/policy.git, branch main", "4f1c2d3e4b5a", "Ada &lt;ada@example.com&gt;", "Let the developers reach the database",
		"on 2 of 3 nodes", "// who may reach what", "group:dev")
	if n := strings.Count(a.body, `<span class="line">`); n != 6 {
		t.Errorf("%d numbered lines, want 6", n)
	}
	a.lacks(t, "not in force")
	a.want(t, http.StatusOK, "not checked")
	w.api.policy.Signer, w.api.policy.SignerKey = "<eve>@example.com", "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
	p.get("/policy").want(t, http.StatusOK, "&lt;eve&gt;@example.com", "SHA256:47DEQpj8HBSa&#43;/TImW")
	w.api.policy.Refused, w.api.policy.RefusedAuthor = "9988776655443322", "<Bob>"
	w.api.policy.Errors = []string{`line 4, column 12: unknown group "group:dve"`, "line 9, column 3: <b>trailing</b> text"}
	w.api.policy.Text = "{\r\n\t\"x\": \"</pre><script>\u202e\"\n}\n"
	a = p.get("/policy")
	a.want(t, http.StatusOK, "A newer policy is not in force", "998877665544", "&lt;Bob&gt;", "line 4, column 12", "&lt;b&gt;trailing", "\t&#34;x&#34;", "&lt;/pre&gt;&lt;script&gt;\ufffd")
	if strings.Index(a.body, "line 4, column 12") > strings.Index(a.body, "In force") {
		t.Error("the errors do not come first")
	}
	w.api.policy = coordinator.PolicyStatus{Source: "policy.hujson", Errors: []string{"no such file"}}
	p.get("/policy").want(t, http.StatusOK, "No policy was ever in force", "no such file", "The newest text")
}

func TestPolicyPageOfWaitingAndPinned(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	p.get("/policy").lacks(t, "waits for confirmation", "Pinned")
	p.get("/").lacks(t, "waits for confirmation", "pinned")
	w.api.policy.Waiting = &coordinator.PolicyWaiting{
		ID: "9988776655443322110099887766554433221100", Author: "<Bob>", Subject: "</p>clean up", Since: time.Now(), Limit: 25, Why: "it would cut 120 of 300 live flows (40 %; the limit is 25 %)",
		Impact: coordinator.Impact{Live: 300, Cut: 120, Unknown: []string{"old-laptop"},
			Cuts: []coordinator.CutFlows{{Src: "group:eng", Dst: "tag:web", Ports: "tcp 443", Rule: "grants[0], line 3", Flows: 80}}},
	}
	a := p.get("/policy")
	a.want(t, http.StatusOK, "A newer policy waits for confirmation", "998877665544", "&lt;Bob&gt;", "&lt;/p&gt;clean up", "120 of 300 live flows (40 %",
		"tag:web &lt;- group:eng tcp 443 (grants[0], line 3): 80 flows", "old-laptop", "picket-coordinator policy confirm 998877665544")
	if strings.Index(a.body, "waits for confirmation") > strings.Index(a.body, "In force") {
		t.Error("what waits does not come first")
	}
	p.get("/").want(t, http.StatusOK, "A newer policy waits for confirmation.", "would cut 120 of 300 live flows")
	p.post("/policy/reload").wantRedirect(t, "/policy")

	w.api.policy.Waiting = nil
	w.api.policy.Pinned, w.api.policy.Newest = &coordinator.PolicyPin{By: "user <ada>", Since: time.Now()}, "1122334455667788"
	p.get("/policy").want(t, http.StatusOK, "user &lt;ada&gt; pinned the policy in force", "Newest is", "112233445566", "picket-coordinator policy unpin")
	p.get("/").want(t, http.StatusOK, "The policy in force is pinned")
}

func TestPolicyReload(t *testing.T) {
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	p.post("/policy/reload").wantRedirect(t, "/policy")
	w.api.fail["ReloadPolicy"] = refuse(protocol.CodeUnavailable, "The Git host does not answer: try again later.")
	p.post("/policy/reload").want(t, http.StatusServiceUnavailable, "The Git host does not answer")
}

func TestAuditPages(t *testing.T) {
	w := newWorld(t)
	for i := range 150 {
		w.api.record("operator uid 0", "node.rename", fmt.Sprintf("object-%d;", i), "")
	}
	p := w.signedIn(adminLogin)
	a := p.get("/audit")
	a.want(t, http.StatusOK, "object-149;", "object-50;", "/audit?before=51")
	a.lacks(t, "object-49;", ">Newest<")
	a = p.get("/audit?before=51")
	a.want(t, http.StatusOK, "object-49;", "policy.set", "Newest")
	a.lacks(t, "object-50;", ">Older<")
	p.get("/audit?before=1").want(t, http.StatusOK, "policy.set")
	for _, before := range []string{"0", "-1", "x", "99999999999999999999"} {
		p.get("/audit?before="+before).want(t, http.StatusNotFound)
	}
}

// TestFailuresOfTheCoordinator: a refusal is said in the coordinator's words and with its status, anything else is not said at all.
func TestFailuresOfTheCoordinator(t *testing.T) {
	for code, status := range map[string]int{
		coordinator.CodeForbidden: 403, coordinator.CodeNotFound: 404, coordinator.CodeConflict: 409, coordinator.CodeInvalid: 422,
		protocol.CodeThrottled: 429, protocol.CodeUnavailable: 503, "of a later version": 400,
	} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t)
			p := w.signedIn(adminLogin)
			w.api.fail["Nodes"] = fmt.Errorf("list nodes: %w", refuse(code, "A sentence <i>and</i> what to do."))
			p.get("/nodes").want(t, status, "A sentence &lt;i&gt;and&lt;/i&gt; what to do.")
		})
	}
	w := newWorld(t)
	p := w.signedIn(adminLogin)
	for method, path := range map[string]string{"Nodes": "/nodes", "Node": "/nodes/n1", "Users": "/users", "PolicyStatus": "/policy", "Audit": "/audit", "AuthKeys": "/keys"} {
		w.api.fail = map[string]error{method: errors.New("sqlite: secret detail")}
		a := p.get(path)
		a.want(t, http.StatusInternalServerError, "Something went wrong on our side")
		a.lacks(t, "secret detail")
	}
}

func TestMissingPages(t *testing.T) {
	w := newWorld(t)
	p := w.person()
	p.get("/nothing").want(t, http.StatusNotFound, "There is no such page")
	p.get("/static/..%2fweb.go").want(t, http.StatusNotFound)
	p.get("/static/..%2f..%2fgo.mod").want(t, http.StatusNotFound)
	for path, to := range map[string]string{"//evil.example": "/evil.example", "/static/..//evil.example": "/evil.example", `/\evil.example/..//x`: "/x"} {
		if a := p.get(path); a.status != http.StatusTemporaryRedirect || a.location() != to {
			t.Errorf("%s: status %d to %q", path, a.status, a.location())
		}
	}
	p.get("/static/nothing.css").want(t, http.StatusNotFound)
	p.send("DELETE", "/nodes/n1", map[string]string{"Sec-Fetch-Site": "same-origin"}, "").want(t, http.StatusMethodNotAllowed)
	if a := p.get("/policy/reload"); a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "POST" {
		t.Errorf("status %d, Allow %q", a.status, a.header.Get("Allow"))
	}
}
