package ruler

import "context"

// lateState is what a group knows of late data.
type lateState struct{}

func (r *Ruler) settle(context.Context, *group, int64) {}

func (r *Ruler) replay(context.Context, *group) {}
