(no finite values)
