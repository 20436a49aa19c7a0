package web

func (s *site) policyPage(v *visit) (reply, error) {
	status, err := s.api.PolicyStatus(v.Context(), v.actor())
	if err != nil {
		return reply{}, err
	}
	return page("policy", status), nil
}

// reloadPolicy fetches now. A commit that rewrites history is not accepted from here: that takes the operator's socket.
func (s *site) reloadPolicy(v *visit) (reply, error) {
	status, change, err := s.api.ReloadPolicy(v.Context(), v.actor(), "")
	if err == nil && (status.Waiting != nil || status.Pinned != nil) { // the page says what stands against the newest
		return redirect("/policy"), nil
	}
	return after(change, "/policy", err)
}
