package web

import "net/http"

// routes is every page there is. The test of R32 walks this table as nobody, as a member and as an administrator.
func (s *site) routes() []route {
	const get, post = http.MethodGet, http.MethodPost
	return []route{
		{get, "/static/{file}", open, s.static},

		{get, "/setup/{token}", public, s.setupPage},
		{post, "/setup/{token}/begin", public, s.beginSetup}, // login
		{get, "/setup/{token}/qr", public, s.setupQR},
		{post, "/setup/{token}", public, s.finishSetup}, // password, confirm, code
		{get, "/login", public, s.loginPage},
		{post, "/login", public, s.login}, // login, password, code, next
		{post, "/logout", signedIn, s.logout},

		{get, "/join/{ticket}", signedIn, s.joinPage},
		{post, "/join/{ticket}", signedIn, s.approve}, // code
		{post, "/join/{ticket}/deny", signedIn, s.deny},

		{get, "/{$}", signedIn, s.overview},
		{get, "/nodes", admin, s.nodesPage},
		{get, "/nodes/{node}", admin, s.nodePage},
		{get, "/nodes/{node}/rename", admin, s.renamePage},
		{post, "/nodes/{node}/rename", admin, s.rename}, // name
		{get, "/nodes/{node}/quarantine", admin, s.quarantinePage},
		{post, "/nodes/{node}/quarantine", admin, s.quarantine},
		{get, "/nodes/{node}/release", admin, s.releasePage},
		{post, "/nodes/{node}/release", admin, s.release},
		{get, "/nodes/{node}/remove", admin, s.removeNodePage},
		{post, "/nodes/{node}/remove", admin, s.removeNode},
		{get, "/changes/{generation}", admin, s.changePage},

		{get, "/users", admin, s.usersPage},
		{post, "/users", admin, s.addUser}, // login, role
		{get, "/users/{login}/remove", admin, s.removeUserPage},
		{post, "/users/{login}/remove", admin, s.removeUser},

		{get, "/keys", admin, s.keysPage},
		{post, "/keys", admin, s.createKey}, // tags, reusable, life
		{get, "/keys/{key}/revoke", admin, s.revokeKeyPage},
		{post, "/keys/{key}/revoke", admin, s.revokeKey},

		{get, "/policy", admin, s.policyPage},
		{post, "/policy/reload", admin, s.reloadPolicy},
		{get, "/audit", admin, s.auditPage},
	}
}
