(no series)
