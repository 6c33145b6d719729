package column

// Samples is the number of r's samples, the marker not counted.
func (r *Run) Samples(step int64) int { return r.CountUpTo(r.LastSample(), step) }

// LastSample is the time of r's last sample, the marker not counted.
func (r *Run) LastSample() int64 {
	if r.Open != 0 {
		return r.Open
	}
	return max(r.Zero, r.Last)
}

// CountUpTo is the number of r's samples at or before t, the marker not counted.
func (r *Run) CountUpTo(t, step int64) int {
	if t < r.Zero {
		return 0
	}
	n := 1
	if last := min(t, r.Last); last >= r.First {
		n += int((last-r.First)/step) + 1
	}
	if r.Open != 0 && r.Open <= t {
		n++
	}
	return n
}

// FirstAfter is the time of r's first sample after t; there must be one.
func (r *Run) FirstAfter(t, step int64) int64 {
	switch {
	case r.Zero > t:
		return r.Zero
	case r.Last >= r.First && t < r.First:
		return r.First
	case t < r.Last:
		return r.First + (t-r.First)/step*step + step
	}
	return r.Open
}

// LastUpTo is the time of r's last sample at or before t, the marker not counted; there
// must be one.
func (r *Run) LastUpTo(t, step int64) int64 {
	switch {
	case r.Open != 0 && r.Open <= t:
		return r.Open
	case r.Last >= r.First && t >= r.First:
		return r.First + (min(t, r.Last)-r.First)/step*step
	}
	return r.Zero
}

// Cursor reads the totals of a column at times that do not go back.
type Cursor struct {
	run   int // plus 1; 0: at none yet
	next  int // the first window that is not in sum
	sum   Sum
	total float64
}

// At is the total of run i's sample at t.
func (k *Cursor) At(c *Column, i int, t int64) float64 {
	r := &c.Runs[i]
	if k.run != i+1 {
		*k = Cursor{run: i + 1, next: r.From}
	}
	if t == r.Zero {
		return 0
	}
	upTo := t - c.Step // windows that start here or before have ended
	if t == r.Open {
		upTo = t
	}
	from := k.next
	for k.next < r.To && c.Win[k.next] <= upTo {
		k.next++
		if k.next-from == 8 { // more than a few
			k.next += windowsUpTo(c.Win[k.next:r.To], upTo, c.Step)
			break
		}
	}
	if k.next > from {
		c.addAll(&k.sum, c.Inc[from:k.next])
		k.total = k.sum.Value()
	}
	return k.total
}

// windowsUpTo is the number of windows that start at t or before.
func windowsUpTo(win []int64, t, step int64) int {
	if len(win) == 0 || win[0] > t {
		return 0
	}
	// Where none is left out it is known where the last is.
	if n := (t-win[0])/step + 1; n >= int64(len(win)) && win[len(win)-1] <= t {
		return len(win)
	} else if n < int64(len(win)) && win[n-1] <= t && win[n] > t {
		return int(n)
	}
	lo, hi := 1, len(win) // win[lo-1] <= t
	for lo < hi {
		if mid := (lo + hi) / 2; win[mid] <= t {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// addAll adds increments to a sum.
func (c *Column) addAll(sum *Sum, inc []float64) {
	if !c.Whole {
		for _, x := range inc {
			sum.Add(x)
		}
		return
	}
	total := sum.sum
	for len(inc) >= 4 { // see prefixSums
		in := (*[4]float64)(inc)
		total += (in[0] + in[1]) + (in[2] + in[3])
		inc = inc[4:]
	}
	for _, x := range inc {
		total += x
	}
	sum.sum = total
}

// RunTotal is the value of run i's last sample, the run not being the last.
func (c *Column) RunTotal(i int) float64 {
	var sum Sum
	c.addAll(&sum, c.Inc[c.Runs[i].From:c.Runs[i].To])
	return sum.Value()
}
