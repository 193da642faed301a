"""Advantages, one file each: they turn the scores of each group into one number per response.

A file has a function, its options, and examples that the tests run:

    class Config(AdvantageSettings): …            options, if it has any
    EXAMPLES = [(options, scores_PG, adv_PG), …]
    MIN_GROUP = 2                                 the smallest group that it can compare
    def advantages(config, scores_PG) -> adv_PG   a number per sample, for the groups of all ranks

A response to a prompt and an episode of several turns are both one sample. By an argument of this
name, or a constant, the function gets more:

    turns_PG                            the turns of each sample (`types.TurnView`); it then returns
                                        a number per turn, or one per sample
    TOKEN_LEVEL = True, and values_PG   a critic's value of each sampled token, for the groups of
                                        this rank; it then returns a number per token, or per turn

`credit = "turn"` needs nothing of these: the returns of one turn index are then a group.
"""
