package opsocket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// maxRequest bounds a call's body, in bytes; maxPolicyRequest that of a call with a policy, of at most 1 MiB, in base64.
const (
	maxRequest       = 64 << 10
	maxDNSRequest    = 2 << 20 // protocol.DNS at its bounds
	maxPolicyRequest = 3 << 20 / 2
)

// maxAwait bounds how long a call may be held open.
const maxAwait = time.Minute

// Nodes is what the socket needs for nodes.
type Nodes interface {
	Nodes(context.Context, coordinator.Actor) ([]coordinator.NodeView, error)
	Node(ctx context.Context, a coordinator.Actor, ref string) (coordinator.NodeView, error)
	RenameNode(ctx context.Context, a coordinator.Actor, ref, name string) (coordinator.Change, error)
	RemoveNode(ctx context.Context, a coordinator.Actor, ref string) (coordinator.Change, error)
	QuarantineNode(ctx context.Context, a coordinator.Actor, ref string, on bool) (coordinator.Change, error)
}

// Routes is what the socket needs for routes.
type Routes interface {
	Routes(context.Context, coordinator.Actor) ([]coordinator.RouteView, error)
	ApproveRoutes(ctx context.Context, a coordinator.Actor, ref string, routes []netip.Prefix) (coordinator.Change, error)
	RevokeRoutes(ctx context.Context, a coordinator.Actor, ref string, routes []netip.Prefix) (coordinator.Change, error)
}

// Names is what the socket needs for names.
type Names interface {
	DNS(context.Context, coordinator.Actor) (coordinator.DNSRow, error)
	SetDNS(context.Context, coordinator.Actor, protocol.DNS) (coordinator.Change, error)
}

// People is what the socket needs for accounts.
type People interface {
	Users(context.Context, coordinator.Actor) ([]coordinator.User, error)
	AddUser(ctx context.Context, a coordinator.Actor, login string, r coordinator.Role) (coordinator.User, string, error)
	RemoveUser(ctx context.Context, a coordinator.Actor, login string) (coordinator.Change, error)
}

// Keys is what the socket needs for auth keys.
type Keys interface {
	CreateAuthKey(context.Context, coordinator.Actor, coordinator.NewAuthKey) (coordinator.AuthKey, string, error)
	AuthKeys(context.Context, coordinator.Actor) ([]coordinator.AuthKey, error)
	RevokeAuthKey(ctx context.Context, a coordinator.Actor, id string) error
}

// Tokens is what the socket needs for tokens.
type Tokens interface {
	CreateToken(context.Context, coordinator.Actor, coordinator.NewToken) (coordinator.Token, string, error)
	Tokens(context.Context, coordinator.Actor) ([]coordinator.Token, error)
	RevokeToken(ctx context.Context, a coordinator.Actor, id string) error
}

// Relays is what the socket needs for relays.
type Relays interface {
	Relays(context.Context, coordinator.Actor) ([]coordinator.RelayView, error)
	AddRelay(ctx context.Context, a coordinator.Actor, r protocol.Relay) (coordinator.Change, error)
	RemoveRelay(ctx context.Context, a coordinator.Actor, name string) (coordinator.Change, error)
}

// Policy is what the socket needs for policy and its record.
type Policy interface {
	PolicyStatus(context.Context, coordinator.Actor) (coordinator.PolicyStatus, error)
	ReloadPolicy(ctx context.Context, a coordinator.Actor, accept string) (coordinator.PolicyStatus, coordinator.Change, error)
	ConfirmPolicy(ctx context.Context, a coordinator.Actor, ref string) (coordinator.PolicyStatus, coordinator.Change, error)
	RollbackPolicy(ctx context.Context, a coordinator.Actor, ref string) (coordinator.Change, error)
	PinPolicy(ctx context.Context, a coordinator.Actor, ref string) (coordinator.Change, error)
	UnpinPolicy(context.Context, coordinator.Actor) (coordinator.PolicyStatus, coordinator.Change, error)
	PolicyHistory(context.Context, coordinator.Actor) ([]coordinator.PolicyVersion, error)
	PolicyImpact(ctx context.Context, a coordinator.Actor, text []byte) (coordinator.Impact, error)
	PolicyDirectory(ctx context.Context, a coordinator.Actor) ([]byte, error)
	Why(ctx context.Context, a coordinator.Actor, src, dst string) (coordinator.WhyAnswer, error)
	Enforced(ctx context.Context, a coordinator.Actor, g uint64) (coordinator.Enforcement, error)
	Audit(ctx context.Context, a coordinator.Actor, limit int, before int64) ([]coordinator.AuditRecord, error)
}

// API is the coordinator as the socket sees it.
type API interface {
	Nodes
	Routes
	Names
	People
	Keys
	Tokens
	Relays
	Policy
}

// server answers calls.
type server struct {
	mux    *http.ServeMux
	logger *slog.Logger
}

// Handler answers the calls of this package; url is where people reach the coordinator's pages. It must be served by Serve, which
// finds out who calls.
func Handler(api API, url string, logger *slog.Logger) http.Handler {
	s := &server{http.NewServeMux(), logger}
	handleNodes(s, api)
	handleRoutes(s, api)
	handleNames(s, api)
	handlePeople(s, api, url)
	handleKeys(s, api)
	handleTokens(s, api)
	handleRelays(s, api)
	handlePolicy(s, api)
	return s.mux
}

func handleNodes(s *server, api Nodes) {
	handle(s, NodesList, func(ctx context.Context, a coordinator.Actor, _ None) ([]coordinator.NodeView, error) {
		return api.Nodes(ctx, a)
	})
	handle(s, NodesShow, func(ctx context.Context, a coordinator.Actor, r Ref) (coordinator.NodeView, error) {
		return api.Node(ctx, a, r.Ref)
	})
	handle(s, NodesRename, func(ctx context.Context, a coordinator.Actor, r Rename) (coordinator.Change, error) {
		return api.RenameNode(ctx, a, r.Ref, r.Name)
	})
	handle(s, NodesRemove, func(ctx context.Context, a coordinator.Actor, r Ref) (coordinator.Change, error) {
		return api.RemoveNode(ctx, a, r.Ref)
	})
	handle(s, NodesQuarantine, func(ctx context.Context, a coordinator.Actor, r Quarantine) (coordinator.Change, error) {
		return api.QuarantineNode(ctx, a, r.Ref, r.On)
	})
}

func handleRoutes(s *server, api Routes) {
	handle(s, RoutesList, func(ctx context.Context, a coordinator.Actor, _ None) ([]coordinator.RouteView, error) {
		return api.Routes(ctx, a)
	})
	handle(s, RoutesApprove, func(ctx context.Context, a coordinator.Actor, r NodeRoutes) (coordinator.Change, error) {
		return api.ApproveRoutes(ctx, a, r.Ref, r.Routes)
	})
	handle(s, RoutesRevoke, func(ctx context.Context, a coordinator.Actor, r NodeRoutes) (coordinator.Change, error) {
		return api.RevokeRoutes(ctx, a, r.Ref, r.Routes)
	})
}

func handleNames(s *server, api Names) {
	handle(s, DNSShow, func(ctx context.Context, a coordinator.Actor, _ None) (coordinator.DNSRow, error) {
		return api.DNS(ctx, a)
	})
	handleUpTo(s, maxDNSRequest, DNSSet, func(ctx context.Context, a coordinator.Actor, d protocol.DNS) (coordinator.Change, error) {
		return api.SetDNS(ctx, a, d)
	})
}

func handlePeople(s *server, api People, url string) {
	handle(s, UsersList, func(ctx context.Context, a coordinator.Actor, _ None) ([]coordinator.User, error) {
		return api.Users(ctx, a)
	})
	handle(s, UsersAdd, func(ctx context.Context, a coordinator.Actor, r AddUser) (AddedUser, error) {
		u, token, err := api.AddUser(ctx, a, r.Login, r.Role)
		return AddedUser{u, token, url}, err
	})
	handle(s, UsersRemove, func(ctx context.Context, a coordinator.Actor, r Ref) (coordinator.Change, error) {
		return api.RemoveUser(ctx, a, r.Ref)
	})
}

func handleKeys(s *server, api Keys) {
	handle(s, KeysCreate, func(ctx context.Context, a coordinator.Actor, r NewKey) (CreatedKey, error) {
		k, text, err := api.CreateAuthKey(ctx, a, coordinator.NewAuthKey{Tags: r.Tags, Reusable: r.Reusable, Life: r.Life})
		return CreatedKey{k, text}, err
	})
	handle(s, KeysList, func(ctx context.Context, a coordinator.Actor, _ None) ([]coordinator.AuthKey, error) {
		return api.AuthKeys(ctx, a)
	})
	handle(s, KeysRevoke, func(ctx context.Context, a coordinator.Actor, r Ref) (None, error) {
		return None{}, api.RevokeAuthKey(ctx, a, r.Ref)
	})
}

func handleTokens(s *server, api Tokens) {
	handle(s, TokensCreate, func(ctx context.Context, a coordinator.Actor, r NewToken) (CreatedToken, error) {
		t, text, err := api.CreateToken(ctx, a, coordinator.NewToken{Scope: r.Scope, Note: r.Note, Life: r.Life})
		return CreatedToken{t, text}, err
	})
	handle(s, TokensList, func(ctx context.Context, a coordinator.Actor, _ None) ([]coordinator.Token, error) {
		return api.Tokens(ctx, a)
	})
	handle(s, TokensRevoke, func(ctx context.Context, a coordinator.Actor, r Ref) (None, error) {
		return None{}, api.RevokeToken(ctx, a, r.Ref)
	})
}

func handleRelays(s *server, api Relays) {
	handle(s, RelaysAdd, func(ctx context.Context, a coordinator.Actor, r protocol.Relay) (coordinator.Change, error) {
		return api.AddRelay(ctx, a, r)
	})
	handle(s, RelaysList, func(ctx context.Context, a coordinator.Actor, _ None) ([]coordinator.RelayView, error) {
		return api.Relays(ctx, a)
	})
	handle(s, RelaysRemove, func(ctx context.Context, a coordinator.Actor, r Ref) (coordinator.Change, error) {
		return api.RemoveRelay(ctx, a, r.Ref)
	})
}

func handlePolicy(s *server, api Policy) {
	handle(s, PolicyStatus, func(ctx context.Context, a coordinator.Actor, _ None) (coordinator.PolicyStatus, error) {
		return api.PolicyStatus(ctx, a)
	})
	handle(s, PolicyReload, func(ctx context.Context, a coordinator.Actor, r Reload) (Reloaded, error) {
		status, change, err := api.ReloadPolicy(ctx, a, r.Accept)
		return Reloaded{status, change}, err
	})
	handle(s, PolicyConfirm, func(ctx context.Context, a coordinator.Actor, r Ref) (Reloaded, error) {
		status, change, err := api.ConfirmPolicy(ctx, a, r.Ref)
		return Reloaded{status, change}, err
	})
	handle(s, PolicyRollback, func(ctx context.Context, a coordinator.Actor, r Ref) (coordinator.Change, error) {
		return api.RollbackPolicy(ctx, a, r.Ref)
	})
	handle(s, PolicyPin, func(ctx context.Context, a coordinator.Actor, r Ref) (coordinator.Change, error) {
		return api.PinPolicy(ctx, a, r.Ref)
	})
	handle(s, PolicyUnpin, func(ctx context.Context, a coordinator.Actor, _ None) (Reloaded, error) {
		status, change, err := api.UnpinPolicy(ctx, a)
		return Reloaded{status, change}, err
	})
	handle(s, PolicyList, func(ctx context.Context, a coordinator.Actor, _ None) ([]coordinator.PolicyVersion, error) {
		return api.PolicyHistory(ctx, a)
	})
	handleUpTo(s, maxPolicyRequest, PolicyImpact, func(ctx context.Context, a coordinator.Actor, r protocol.PolicyText) (coordinator.Impact, error) {
		return api.PolicyImpact(ctx, a, r.Text)
	})
	handle(s, PolicyExport, func(ctx context.Context, a coordinator.Actor, _ None) (Directory, error) {
		text, err := api.PolicyDirectory(ctx, a)
		return Directory{string(text)}, err
	})
	handle(s, PolicyWhy, func(ctx context.Context, a coordinator.Actor, r WhyFlow) (coordinator.WhyAnswer, error) {
		return api.Why(ctx, a, r.Src, r.Dst)
	})
	handle(s, Enforced, func(ctx context.Context, a coordinator.Actor, r Await) (coordinator.Enforcement, error) {
		ctx, cancel := context.WithTimeout(ctx, min(max(r.Timeout, 0), maxAwait))
		defer cancel()
		return api.Enforced(ctx, a, r.Generation)
	})
	handle(s, AuditList, func(ctx context.Context, a coordinator.Actor, r Page) ([]coordinator.AuditRecord, error) {
		return api.Audit(ctx, a, r.Limit, r.Before)
	})
}

// handle registers one call. The actor is the kernel's word for who connected: a request body cannot claim another.
func handle[Req, Res any](s *server, c Call[Req, Res], f func(context.Context, coordinator.Actor, Req) (Res, error)) {
	handleUpTo(s, maxRequest, c, f)
}

// handleUpTo is handle for requests of at most limit bytes.
func handleUpTo[Req, Res any](s *server, limit int64, c Call[Req, Res], f func(context.Context, coordinator.Actor, Req) (Res, error)) {
	s.mux.HandleFunc("POST /v1/"+c.Name, func(w http.ResponseWriter, r *http.Request) {
		actor, ok := actorOf(r.Context())
		if !ok {
			s.refuse(w, c.Name, &coordinator.Error{Code: coordinator.CodeForbidden, Message: "only root and the user the coordinator runs as may use its socket: try with sudo"})
			return
		}
		var req Req
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
		d.DisallowUnknownFields()
		if err := d.Decode(&req); err != nil || d.Decode(&struct{}{}) != io.EOF {
			s.refuse(w, c.Name, &coordinator.Error{Code: protocol.CodeBadRequest, Message: "the request is not one JSON object of the form " + c.Name + " takes: are both programs of the same version?"})
			return
		}
		res, err := f(r.Context(), actor, req)
		if err != nil {
			s.refuse(w, c.Name, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(res)
	})
}

// refuse answers a failed call; what is not meant for people is logged and answered in general words.
func (s *server) refuse(w http.ResponseWriter, call string, err error) {
	var e *coordinator.Error
	if !errors.As(err, &e) {
		s.logger.Error("operator call failed", "call", call, "error", err)
		e = &coordinator.Error{Code: protocol.CodeUnavailable, Message: fmt.Sprintf("%s failed: %v", call, err)}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusOf(e.Code))
	_ = json.NewEncoder(w).Encode(protocol.Problem{Code: e.Code, Message: e.Message, Errors: e.Errors})
}

func statusOf(code string) int {
	switch code {
	case coordinator.CodeForbidden:
		return http.StatusForbidden
	case coordinator.CodeNotFound:
		return http.StatusNotFound
	case coordinator.CodeConflict:
		return http.StatusConflict
	case protocol.CodeUnavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusBadRequest
	}
}
