"""Does the policy do with a pipeline what the pipeline does with itself?"""
