package node

import (
	"context"
	"errors"

	"picket.internal/node/localapi"
)

func (a api) Expose(ctx context.Context, q localapi.AskExpose, emit func(localapi.PassageEvent)) error {
	return errors.New("xx")
}
